"""backtest_report: the scans of a span again over stored candles, judged against baselines; one run a configuration.

It reads the candles that are stored and writes to a store of its own: no live table, no live figure, and no partition
of the assets of a scan depends on it.
"""

# No postponed annotations here: Dagster reads those of its decorated functions as they are.
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from v7_pipeline.orchestration.metadata import heading, markdown_table
from v7_pipeline.scan.runtime import Runtime

if TYPE_CHECKING:
    from v7_pipeline.backtest.run import Configuration, Made

__all__ = ["BACKTEST_REPORT", "BacktestConfig", "build_backtest_report"]

BACKTEST_REPORT = "backtest_report"
_TOLD = ("Return and risk", "Trades", "Could it be chance?")


class BacktestConfig(dg.Config):
    """What is backtested. Everything has a default: yesterday, as the settings have it."""

    first: str = Field("", alias="from", description="First UTC day, such as 2023-12-01; empty: yesterday.")
    to: str = Field("", description="Last UTC day, included; empty: the first one.")
    symbols: list[str] = Field([], description="Products; empty: V7_SYMBOLS.")
    strategy: str = Field("v7", description="v7 or v6; several, by comma: the first is reported, the others beside it.")
    analyst: str = Field("rules", description="Who decides: rules, or replay: what the ledger holds, scan by scan.")
    fees: str = Field("", description="A fee preset, such as ftmo-crypto; empty: V7_FEES.")
    every_minutes: int = Field(2, ge=1, description="min; between two scans.")


def build_backtest_report() -> dg.AssetsDefinition:
    """The asset, without partitions: its configuration says which days."""

    @dg.asset(
        name=BACKTEST_REPORT,
        description="The scans of a span again over stored candles, against baselines: one page and its figures. "
        "Configured by from, to, symbols, strategy, analyst, fees, every_minutes.",
        group_name="backtest",
        kinds={"python", "duckdb", "plotly"},
        owners=["team:v7"],
    )
    def backtest_report(
        context: dg.AssetExecutionContext, config: BacktestConfig, runtime: dg.ResourceParam[Runtime]
    ) -> dg.MaterializeResult[None]:
        from v7_pipeline.backtest.run import run_backtest  # a scan never needs it

        made = run_backtest(
            runtime.store,
            runtime.settings,
            _configuration(config, runtime),
            analyst=_analyst(config, runtime),
            now=runtime.clock(),
            on_progress=_Told(context.log),
        )
        s = runtime.settings
        return dg.MaterializeResult(metadata=_story(made, f"http://{s.host}:{s.dashboard_port}"))

    return backtest_report


def _configuration(config: BacktestConfig, runtime: Runtime) -> "Configuration":
    from v7_pipeline.backtest.run import Configuration, days

    yesterday = f"{runtime.clock() - timedelta(days=1):%Y-%m-%d}"
    first = config.first or yesterday
    start, end = days(first, config.to or first)
    options = {"symbols": ",".join(config.symbols), "fees": config.fees}
    extra = "".join(f", {name}: {value}" for name, value in options.items() if value)
    return Configuration(
        start=start,
        end=end,
        every=timedelta(minutes=config.every_minutes),
        symbols=tuple(config.symbols) or None,
        strategies=tuple(config.strategy.split(",")),
        analyst=config.analyst,
        fees=config.fees or None,
        command=f"Dagster's job backtest, from: {first}, to: {config.to or first}, "
        f"every_minutes: {config.every_minutes}{extra}",
    )


def _analyst(config: BacktestConfig, runtime: Runtime) -> Any:
    """None for the rules, else who is asked; BacktestError for a name that costs money or is unknown."""
    from v7_pipeline.backtest.replay import BacktestError

    if config.analyst == "rules":
        return None
    if config.analyst == "replay":
        return runtime.replay_analyst(runtime.store)
    raise BacktestError(f"analyst {config.analyst!r} cannot decide in this job; take rules or replay")


class _Told:
    """Progress as a line of the run's log for each tenth of a stage."""

    def __init__(self, log: Any) -> None:
        self._log = log
        self._tenth: dict[str, int] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        tenth = 10 * done // total if total else 10
        if tenth > self._tenth.get(stage, -1):
            self._tenth[stage] = tenth
            self._log.info(f"{stage}: {done} of {total}")


def _story(made: "Made", dashboard: str) -> dict[str, Any]:
    """Verdict, figures, a picture of the account, where the page lies, and where the dashboard shows it."""
    from v7_pipeline.backtest.page import item_table
    from v7_pipeline.orchestration.charts import equity_png, in_markdown

    found = made.figures
    demo = found.material.is_demo
    span = f"{found.first:%Y-%m-%d %H:%M}Z … {found.last:%Y-%m-%d %H:%M}Z"
    told = [(name, *row) for name in _TOLD for row in item_table(found.sections[name])]
    table = markdown_table(("figure", "value", "95 % interval", "n (worth)", "note"), (row[1:] for row in told))
    story: dict[str, Any] = {
        "verdict": dg.MetadataValue.md(heading(span, demo=demo) + made.verdict.markdown()),
        "figures": dg.MetadataValue.md(heading(f"{found.material.simulation.name}, {span}", demo=demo) + table),
        "page": dg.MetadataValue.url(f"{dashboard}/backtests/{made.page.name}"),
        "page_path": dg.MetadataValue.path(str(made.page.resolve())),
        "json_path": dg.MetadataValue.path(str(made.data.resolve())),
        "backtest": made.run_id,
        "scans": made.scans,
        "scans_kept": made.kept,
        "closed_trades": len(found.trades),
    }
    if len(found.trades):
        chart = equity_png(found.trades, title=f"{made.run_id}: closed trades", demo=demo)
        story["equity"] = dg.MetadataValue.md(in_markdown(chart, "what the closed trades came to"))
    return story
