"""Write the documentation pages that are made from the code: data dictionary, reason codes, checks, settings, theories.

Run `python scripts/make_docs.py` after a change; a test compares the pages with what this would write.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"


def data_dictionary() -> str:
    from v7_pipeline.store import data_dictionary as make

    return make()


def reason_codes() -> str:
    from v7_pipeline.gates.reasons import REASONS

    rows = "\n".join(f"| `{code}` | {reason.meaning} | {reason.remedy} |" for code, reason in REASONS.items())
    return (
        "# Reason codes\n\nEvery decision that is not an accepted signal says why, in `gated_signals.reason_codes`. All reasons "
        "are kept, not only the first.\n\n| code | what it means | what to do |\n| --- | --- | --- |\n" + rows + "\n"
    )


def checks() -> str:
    from v7_pipeline.orchestration.checks.scan_checks import CHECKS

    rows = "\n".join(f"| `{check.name}` | {check.asset} | {check.meaning} |" for check in CHECKS)
    return (
        "# Checks\n\nThe fast checks run with every scan, as one op over one read of the store, and look at that scan's instant "
        "only. A failed check does not stop the scan: what must never be stored is refused before the write. A check that "
        "cannot look raises, so that a crash is never taken for bad data.\n\n"
        "| check | asset | what it asks |\n| --- | --- | --- |\n" + rows + "\n\n"
        "When one fails, open the check in Dagster: its metadata has the number of wrong rows and the instant. "
        "`every_symbol_answered` names the symbol and the market's answer; the next scan fetches what is missing. Any other "
        "failure is a defect of V7, not of the market: keep the store and open an issue with the run's id.\n"
    )


def settings_page() -> str:
    from v7_pipeline.settings import Settings, env_name

    rows = []
    for field, info in Settings.model_fields.items():
        default = info.default
        shown = (
            "–"
            if default is None or default == ()
            else ",".join(default)
            if isinstance(default, tuple)
            else str(default)
        )
        rows.append(f"| `{env_name(field)}` | {shown} | {info.description} |")
    return (
        "# Settings\n\nFrom the environment or a `.env` file; `v7 settings` shows each with its value and where it came from.\n\n"
        "| name | default | meaning |\n| --- | --- | --- |\n" + "\n".join(rows) + "\n"
    )


def theories() -> str:
    import importlib

    from v7_pipeline.store.schema import THEORY_NAMES, THEORY_VALUES

    parts = [
        "# The theories\n\nA theory is a function of past candles. It gives values in their own units, the headline value's "
        "percentile under its null (a random walk of the same length), a vote from −1 (bearish) to 1 (bullish; 0 abstains) and a "
        "score from 0 to 1 (how strongly it speaks). It sees closed candles only; where less than 80 % of a window's minutes had "
        "a trade it abstains, and its values are missing.\n"
    ]
    for name in THEORY_NAMES:
        module = importlib.import_module(f"v7_pipeline.theories.{name}")
        parts.append(f"## {name.replace('_', ' ').capitalize()}\n\n{inspect.cleandoc(module.__doc__ or '')}\n")
        rows = "\n".join(f"| `{value}` | {unit} | {meaning} |" for value, unit, meaning, _ in THEORY_VALUES[name])
        parts.append(f"| value | unit | meaning |\n| --- | --- | --- |\n{rows}\n")
    return "\n".join(parts)


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
