"""Write the documentation pages that are made from the code: data dictionary, reason codes, checks, settings, theories.

Run `python scripts/make_docs.py` after a change; a test compares the pages with what this would write.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"


def data_dictionary() -> str:
    from v7_pipeline.store import data_dictionary as make

    return make()


def reason_codes() -> str:
    from v7_pipeline.gates.reasons import REASONS

    return page(
        "Reason codes",
        """
        Every decision that is not an accepted signal says why, in `gated_signals.reason_codes`. All reasons are kept,
        not only the first.
        """,
        table(
            ("code", "what it means", "what to do"),
            ((f"`{code}`", reason.meaning, reason.remedy) for code, reason in REASONS.items()),
        ),
    )


def checks() -> str:
    from v7_pipeline.orchestration.checks.scan_checks import CHECKS

    return page(
        "Checks",
        """
        The fast checks run with every scan, as one op over one read of the store, and look at that scan's instant only.
        A failed check does not stop the scan: what must never be stored is refused before the write. A check that
        cannot look raises, so that a crash is never taken for bad data.
        """,
        table(("check", "asset", "what it asks"), ((f"`{c.name}`", c.asset, c.meaning) for c in CHECKS)),
        """
        When one fails, open the check in Dagster: its metadata has the number of wrong rows and the instant.
        `every_symbol_answered` names the symbol and the market's answer; the next scan fetches what is missing. Any
        other failure is a defect of V7, not of the market: keep the store and open an issue with the run's id.
        """,
    )


def settings_page() -> str:
    from v7_pipeline.settings import Settings, env_name

    def shown(default: object) -> str:
        if default is None or default == ():
            return "–"
        return ",".join(default) if isinstance(default, tuple) else str(default)

    return page(
        "Settings",
        """
        An argument of a command comes first, then the environment, then a `.env` file in the folder where `v7` is
        started, then the default. `v7 settings` shows each with its value and where it came from; secrets are masked.
        """,
        table(
            ("name", "default", "meaning"),
            (
                (f"`{env_name(field)}`", f"`{shown(info.default)}`", info.description or "")
                for field, info in Settings.model_fields.items()
            ),
        ),
    )


def theories() -> str:
    import importlib

    from v7_pipeline.store.schema import THEORY_NAMES, THEORY_VALUES

    parts = [
        """
        A theory is a function of past candles. It gives values in their own units, the headline value's percentile
        under its null (a random walk of the same length), a vote from −1 (bearish) to 1 (bullish; 0 abstains) and a
        score from 0 to 1 (how strongly it speaks). It sees closed candles only; where less than 80 % of a window's
        minutes had a trade it abstains, and its values are missing.
        """
    ]
    for name in THEORY_NAMES:
        module = importlib.import_module(f"v7_pipeline.theories.{name}")
        rows = ((f"`{value}`", unit, meaning) for value, unit, meaning, _ in THEORY_VALUES[name])
        parts += [
            readable(module.__doc__ or ""),
            table(("value", "unit", "meaning"), rows),
        ]
    return page("The theories", *parts)


_LABELS = ("Formulas", "Formula", "Source", "Sources", "Null", "Percentile", "Vote", "Score", "Unit", "Units")


def readable(docstring: str) -> str:
    """A theory's docstring as a section: its name is the heading, its parts' names are bold, asterisks stay."""
    lead, *paragraphs = inspect.cleandoc(docstring).replace("*", r"\*").split("\n\n")
    name, _, question = lead.partition(": ")
    label = re.compile(rf"(?:^|(?<=[.;] )|(?<=[.;]\n))({'|'.join(_LABELS)})(?= \(|[:,])")
    told = question[:1].upper() + question[1:]
    return "\n\n".join([f"## {name}", told, *(label.sub(r"**\1**", paragraph) for paragraph in paragraphs)])


def page(title: str, *parts: str) -> str:
    """A page of its parts, an empty line between them."""
    return "\n\n".join([f"# {title}", *(inspect.cleandoc(part).strip() for part in parts)]) + "\n"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A markdown table; a bar in a cell is written so that it does not end the cell."""
    cells = [[cell.replace("|", r"\|") for cell in row] for row in (header, ["---"] * len(header), *rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


PAGES = {
    "data_dictionary.md": data_dictionary,
    "reason_codes.md": reason_codes,
    "checks.md": checks,
    "settings.md": settings_page,
    "theories.md": theories,
}


def main() -> None:
    """Write every page; print which changed."""
    for name, make in PAGES.items():
        path, text = DOCS / name, make()
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)
            print(f"wrote docs/{name}", file=sys.stderr)


if __name__ == "__main__":
    main()
