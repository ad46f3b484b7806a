"""Write the documentation pages that are made from the code: data dictionary, reason codes, checks, settings, theories.

Run `python scripts/make_docs.py` after a change; a test compares the pages with what this would write, and so does
`python scripts/make_docs.py --check`, which writes nothing.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from v7_pipeline.orchestration.checks.base import Check

DOCS = Path(__file__).resolve().parents[1] / "docs"


def data_dictionary() -> str:
    from v7_pipeline.store import data_dictionary as make

    return make()


def reason_codes() -> str:
    from v7_pipeline.gates.reasons import ANALYST_REASONS, REASONS, Reason

    def listed(codes: dict[str, Reason]) -> str:
        rows = ((f"`{code}`", reason.meaning, reason.remedy) for code, reason in codes.items())
        return table(("code", "what it means", "what to do"), rows)

    return page(
        "Reason codes",
        """
        Every decision that is not an accepted signal says why, in `gated_signals.reason_codes`. All reasons are kept,
        not only the first.
        """,
        listed(REASONS),
        "## Behind ABSTAINED: and SKIPPED:\n\nAlso in `llm_signals.status_reason`.",
        listed(ANALYST_REASONS),
    )


def checks() -> str:
    from v7_pipeline.orchestration.checks import ALL_CHECKS

    return page(
        "Checks",
        """
        The fast checks run with every scan, as three ops of one read of the store each, and look at that scan's instant
        or a short time before it. The heavy ones have two jobs of their own: `hourly_checks`, seven minutes past each
        hour, looks at the UTC day so far (the first of a day at the whole day before); `daily_checks`, at 00:21 UTC,
        looks at the day before. A check looks at its own day only, except where it compares with earlier ones.

        Three strengths: a check that *blocks* keeps its scan from deciding on wrong rows; an *error* is a defect that
        does not stop the scan; a *warning* asks a person to look. What must never be stored is refused before the
        write. A check that cannot look raises, so that a crash is never taken for bad data.

        When one fails, an [alert](alerts.md) tells it, and the check in Dagster has in its metadata how many rows are
        wrong, the instant or the day, and the first of them. Each check's page says what it asks, what its failure
        means and what to do.
        """,
        table(
            ("check", "asset", "when", "strength"),
            (
                (f"[`{check.name}`](checks/{check.name}.md)", check.asset, period, strength(check))
                for period, checks in ALL_CHECKS.items()
                for check in checks
            ),
        ),
        """
        ![Dagster, the checks of candles: ohlc_consistent has failed, with its metadata](img/checks.png)

        Here a candle of the demo was spoilt in the store. The check blocked the scan: no reading was made of it and
        nothing was decided. [Alerts](alerts.md#what-one-looks-like) has the message that arrived.
        """,
    )


def strength(check: Check) -> str:
    """What a failed check does."""
    from v7_pipeline.orchestration.checks.base import WARN

    if check.blocking:
        return "blocks what is downstream"
    return "warning" if check.severity is WARN else "error"


def check_page(check: Check, period: str) -> str:
    """One check's page: what it asks, what its failure means, what to do, and its query where it is one."""
    from v7_pipeline.orchestration.checks.base import SqlCheck

    when = {"scan": "in every scan", "hourly": "every hour", "daily": "every day"}[period]
    parts = [
        f"Of `{check.asset}`, {when}; {strength(check)}. [All checks](../checks.md)",
        f"## What it asks\n\n{check.meaning}",
        f"## What its failure means\n\n{check.means}",
        f"## What to do\n\n{check.remedy}",
    ]
    if isinstance(check, SqlCheck):
        parts.append(
            "## Its query\n\nOne row; `bad` counts what is wrong. The first `?` is the scan's instant.\n\n"
            f"```sql\n{folded(check.sql)}\n```"
        )
    return page(check.name, *parts)


def folded(sql: str) -> str:
    """A query in lines that can be read without scrolling."""
    lines = textwrap.wrap(" ".join(sql.split()), 110, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines)


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
    from v7_pipeline.store.schema import THEORY_NAMES

    rows = []
    for name in THEORY_NAMES:
        text = " ".join(inspect.cleandoc(docstring(name)).split())
        spoken = re.search(r"Vote: (.*?) Score: ", text)
        assert spoken is not None, f"theories/{name}.py does not say when it votes"
        rows.append((f"[{title(name)}](theories/{name}.md)", spoken[1]))
    return page(
        "The theories",
        """
        A theory is a function of past candles. It gives values in their own units, the headline value's percentile
        under its null (a random walk of the same length), a vote from −1 (bearish) to 1 (bullish; 0 abstains) and a
        score from 0 to 1 (how strongly it speaks). It sees closed candles only; where less than 80 % of a window's
        minutes had a trade it abstains, and its values are missing. `v7 theories` prints the newest readings with a
        sentence each; in Dagster a materialisation of `theory_features` has them as a table (`readings`), and the day
        as small multiples (`day`): percentiles by symbol, the band of noise, ticks where a theory voted.

        ![Dagster, theory_features: the day in small multiples](img/theory_features_day.png)

        ![Dagster, theory_features: the newest readings with a sentence each](img/theory_features_readings.png)

        ## When each speaks

        A theory that cannot tell its window from noise abstains: under noise it votes in one reading of ten at most,
        and to neither side more often than to the other.
        """,
        table(("theory", "its vote"), rows),
        ELEVENTH.format(file=EXAMPLE.read_text(encoding="utf-8").rstrip()),
    )


ELEVENTH = """
## Adding an eleventh

One file and one line. The file has the shape of the others; this one is `examples/price_position.py`:

```python
{file}
```

Copied to `v7_pipeline/theories/price_position.py`, it is listed by one line at the end of `THEORY_VALUES` in
`v7_pipeline/store/schema.py`, which gives it its columns (name, unit, meaning, and whether there is one a window):

```python
    "price_position": (("price_position", "share of the range", "place of the price in its four-hour range", False),),
```

The prompt, the rules, attribution, checks, metadata and these pages follow the list. A store that holds readings
already needs a new `SCHEMA_VERSION` and a migration step (`store/migrations.py`). A test does exactly this.
"""
EXAMPLE = DOCS.parent / "examples" / "price_position.py"


def docstring(name: str) -> str:
    import importlib

    return importlib.import_module(f"v7_pipeline.theories.{name}").__doc__ or ""


def title(name: str) -> str:
    """A theory's name as its docstring writes it."""
    return inspect.cleandoc(docstring(name)).partition(": ")[0]


def theory(name: str) -> str:
    """One theory's page: its docstring, its values, and the pictures that scripts/make_pictures.py draws."""
    from v7_pipeline.store.schema import THEORY_VALUES

    rows = ((f"`{value}`", unit, meaning) for value, unit, meaning, _ in THEORY_VALUES[name])
    head, *paragraphs = readable(docstring(name)).split("\n\n")
    told = [p for p in paragraphs if not p.startswith(("**Reading**: ", "**Misleads**: "))]
    reading, misleads = (
        next(p.removeprefix(f"**{label}**: ") for p in paragraphs if p.startswith(f"**{label}**: "))
        for label in ("Reading", "Misleads")
    )
    return (
        "\n\n".join(
            [
                head.removeprefix("#"),
                *told,
                table(("value", "unit", "meaning"), rows),
                f"![{title(name)} against the price](../img/theories/{name}.png)",
                SHOWN,
                "## How to read it",
                reading[:1].upper() + reading[1:],
                "## When it misleads",
                misleads[:1].upper() + misleads[1:],
            ]
        )
        + "\n"
    )


SHOWN = """Left: BTC-USD on 10 and 11 December 2023 (one-minute candles as recorded), the price above, the headline
value below; green and red marks are its votes. Right: the headline statistic under its null and on these two days."""
_LABELS = (
    "Formulas", "Formula", "Source", "Sources", "Null", "Percentile", "Vote", "Score", "Unit", "Units", "Reading",
    "Misleads",
)  # fmt: skip


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


def pages() -> dict[str, Callable[[], str]]:
    """Every page that is made, by its path below docs/."""
    from v7_pipeline.orchestration.checks import ALL_CHECKS
    from v7_pipeline.store.schema import THEORY_NAMES

    each = {
        f"checks/{check.name}.md": partial(check_page, check, period)
        for period, checks in ALL_CHECKS.items()
        for check in checks
    }
    return PAGES | {f"theories/{name}.md": partial(theory, name) for name in THEORY_NAMES} | each


def stale() -> dict[str, str]:
    """What the pages that are missing or old should hold, by their path below docs/."""
    made = {name: make() for name, make in pages().items()}
    return {
        name: text
        for name, text in made.items()
        if not (DOCS / name).is_file() or (DOCS / name).read_text(encoding="utf-8") != text
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Write what changed and print its names; with --check only print them, and 1 where there are any."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 and names where pages are old")
    check = parser.parse_args(arguments).check
    old = stale()
    for name, text in old.items():
        if not check:
            (DOCS / name).parent.mkdir(parents=True, exist_ok=True)
            (DOCS / name).write_text(text, encoding="utf-8")
        print(f"{'old: ' if check else 'wrote '}docs/{name}", file=sys.stderr)
    if check and old:
        print("run python scripts/make_docs.py", file=sys.stderr)
    return int(check and bool(old))


if __name__ == "__main__":
    sys.exit(main())
