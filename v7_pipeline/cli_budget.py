"""`v7 budget`: what the analyst has cost and is going to, and `reconcile`, which asks the provider's balance.

Figures come from analyst/costs.py and analyst/balance.py; here they are only shown.
"""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from v7_pipeline.cli_common import Demo, UsageProblemError, settings_of, store_of

if TYPE_CHECKING:
    from v7_pipeline.analyst.balance import Reconciliation
    from v7_pipeline.settings import Settings

__all__ = ["app"]

app = typer.Typer(
    help="What the analyst's calls cost: day, month, forecast, a signal; `reconcile` asks the provider.",
    rich_markup_mode="markdown",
    epilog="Examples: `v7 budget` · `v7 budget --demo --json` · `v7 budget reconcile --dry-run`",
)


@app.callback(invoke_without_command=True)
def budget(
    context: typer.Context,
    demo: Demo = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")] = False,
) -> None:
    """Spent, set aside and left of the day and the month; per analyst, call and signal; the month's forecast."""
    context.obj = demo
    if context.invoked_subcommand:
        return
    from v7_pipeline.analyst.costs import costs
    from v7_pipeline.console import budget_block, out

    settings = settings_of(demo)
    found = costs(
        store_of(settings),
        datetime.now(UTC),
        day_budget_usd=settings.daily_budget_usd,
        month_budget_usd=settings.monthly_budget_usd,
    )
    if as_json:
        ratios = ("per_call_usd", "per_signal_usd", "per_accepted_usd", "cache_share")
        figures = {**dataclasses.asdict(found), **{name: getattr(found, name) for name in ratios}}
        typer.echo(json.dumps({"demo": settings.mode == "demo", **figures}, default=datetime.isoformat))
        return
    out().print(budget_block(found, demo=settings.mode == "demo"))


@app.command(epilog="Examples: `v7 budget reconcile` · `v7 budget reconcile --dry-run` · `v7 budget --demo reconcile`")
def reconcile(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be settled, and write nothing.")] = False,
    demo: Demo = None,
) -> None:
    """Compare the ledger with the provider's balance: calls whose end is unknown are settled by what it fell.

    The first time there is nothing to compare with: the balance is kept for the next.
    """
    from v7_pipeline import __version__
    from v7_pipeline.analyst.balance import ask_balance
    from v7_pipeline.analyst.balance import reconcile as compare

    settings = settings_of(context.obj if demo is None else demo)
    url, key = _account(settings)
    if key is None:
        raise UsageProblemError("there is no key, so no account to ask; set DEEPSEEK_API_KEY")
    store = store_of(settings)
    at = datetime.now(UTC)
    told = ask_balance(url, key, timeout_s=settings.deepseek_deadline_s)
    marks = {"source": settings.source, "run_id": "v7 budget reconcile", "code_version": __version__}
    found = compare(store, told, at, "deepseek", marks, dry_run=dry_run)
    mark = "DEMO " if settings.mode == "demo" else ""
    typer.echo(f"{mark}balance ${told.total_usd:.2f}. {_sentence(found)}" + (" Nothing written." if dry_run else ""))


def _account(settings: Settings) -> tuple[str, Any]:
    """Whom to ask: the provider, or in demo mode the sandbox, with no key of ours."""
    if settings.mode != "demo":
        return settings.deepseek_url, settings.deepseek_api_key
    from v7_pipeline.orchestration.up import sandbox_settings

    shown = sandbox_settings(settings, f"http://{settings.host}:{settings.sandbox_port}")
    return shown.deepseek_url, shown.deepseek_api_key


def _sentence(found: Reconciliation) -> str:
    if found.outcome == "first":
        return "Kept; there was none before to compare it with. Reconcile again after some calls."
    fell = f"It fell by ${found.fall:.2f} since {found.since:%Y-%m-%d %H:%M}Z, settled calls explain ${found.known:.4f}"
    unknown = f"{found.unknown} call(s) of unknown end, held at ${found.reserved:.4f}"
    if found.outcome == "topped_up":
        return f"It rose since {found.since:%Y-%m-%d %H:%M}Z: the account was topped up. {unknown} stay so."
    if found.outcome == "unexplained":
        return (
            f"{fell}; that is more than the ledger can explain: does someone else use this account? {unknown} stay so."
        )
    if found.outcome == "nothing_unknown":
        return f"{fell}; no call is of unknown end."
    return f"{fell}; {unknown}, are settled at ${found.charged:.4f}."
