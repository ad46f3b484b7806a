"""`v7 trade`: the trader's own trades on signals, entered, left, mended and listed; a history that is only added to.

Arguments in, one sentence out where they are wrong; the work is done in scan/manual.py.
"""

from __future__ import annotations

import csv
import io
import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from v7_pipeline import __version__
from v7_pipeline.cli_common import Demo, UsageProblemError, instant_of, settings_of, store_of

if TYPE_CHECKING:
    from v7_pipeline.settings import Settings
    from v7_pipeline.store import Reader, Store
    from v7_pipeline.trades.manual import ManualTrade

__all__ = ["app", "words"]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Your own trades on signals: `entry`, `exit`, `list`, `edit`, `void`, `export`. V7 places no orders.",
    epilog="Examples: `v7 trade entry v7-BTC-USD-20261121T100000Z 43210.5` · "
    "`v7 trade exit v7-BTC-USD-20261121T100000Z 43500 target` · `v7 trade list`",
)
words = typer.Typer()  # the same two commands without `trade` before them

Signal = Annotated[str, typer.Argument(help="The signal's id, as v7 signals prints it.")]
Price = Annotated[float, typer.Argument(help="USD; the fill.")]
Quantity = Annotated[float | None, typer.Option(help="Base units.")]
Fee = Annotated[float | None, typer.Option(help="USD paid. Default: the preset of V7_FEES on this fill.")]
At = Annotated[str | None, typer.Option("--at", help="When it was filled, in UTC. Default: now.")]
Event = Annotated[str, typer.Argument(help="The event's id, as v7 trade list prints it.")]


@words.command(hidden=True, epilog="Example: `v7 entry v7-BTC-USD-20261121T100000Z 43210.5`")
@app.command(
    epilog="Examples: `v7 trade entry v7-BTC-USD-20261121T100000Z 43210.5` · "
    "`v7 trade entry v7-BTC-USD-20261121T100000Z 43210.5 --quantity 0.02 --fee 0.28 --at 2026-11-21T10:01:30Z`"
)
def entry(
    signal_id: Signal,
    price: Price,
    quantity: Quantity = None,
    fee: Fee = None,
    at: At = None,
    again: Annotated[bool, typer.Option("--again", help="Although the signal was entered already.")] = False,
    demo: Demo = None,
) -> None:
    """Record that you entered a signal. Without --quantity: the size that the gates gave it."""
    _record("entry", signal_id, price, quantity, fee, at, demo, again=again)


@words.command(name="exit", hidden=True, epilog="Example: `v7 exit v7-BTC-USD-20261121T100000Z 43500 target`")
@app.command(
    name="exit",
    epilog="Examples: `v7 trade exit v7-BTC-USD-20261121T100000Z 43500 target` · "
    "`v7 trade exit v7-BTC-USD-20261121T100000Z 43400 half --quantity 0.01`",
)
def leave(
    signal_id: Signal,
    price: Price,
    reason: Annotated[str, typer.Argument(help="Why, such as target, stop, time or a word of your own.")],
    quantity: Quantity = None,
    fee: Fee = None,
    at: At = None,
    demo: Demo = None,
) -> None:
    """Record that you left a trade, or a part of it. Without --quantity: all that is open."""
    why = " ".join(reason.split())
    if not why:
        raise UsageProblemError("REASON is blank; say why you left, such as target, stop or time")
    _record("exit", signal_id, price, quantity, fee, at, demo, reason=why)


@app.command(
    name="edit",
    epilog="Example: `v7 trade edit v7-BTC-USD-20261121T100000Z-entry-1 --price 43211 --reason typo`",
)
def edit(
    event_id: Event,
    price: Annotated[float | None, typer.Option(help="USD; the fill as it was.")] = None,
    quantity: Quantity = None,
    fee: Annotated[float | None, typer.Option(help="USD paid.")] = None,
    at: Annotated[str | None, typer.Option("--at", help="When it was filled, in UTC.")] = None,
    reason: Annotated[str | None, typer.Option(help="Why it is mended; of an exit: its reason.")] = None,
    demo: Demo = None,
) -> None:
    """Mend a recorded entry or exit: a new event beside the old one, which stays."""
    from v7_pipeline.scan.manual import revise

    settings, now = settings_of(demo), datetime.now(UTC)
    changes: dict[str, Any] = {
        "price": _positive(price, "--price"),
        "quantity": _positive(quantity, "--quantity"),
        "fee_usd": _fee(fee),
        "at": _past(at, now) if at else None,
    }
    if all(value is None for value in changes.values()):
        raise UsageProblemError("nothing to mend; give --price, --quantity, --fee or --at")
    trade = _tried(
        revise, _store(settings), settings, event_id, now=now, marks=_marks(settings), reason=reason, **changes
    )
    _tell(settings, f"mended {event_id}; the old figures are kept", trade)


@app.command(epilog='Example: `v7 trade void v7-BTC-USD-20261121T100000Z-exit-1 --reason "another account"`')
def void(
    event_id: Event,
    reason: Annotated[str, typer.Option("--reason", help="Why it does not count; it is kept.")],
    demo: Demo = None,
) -> None:
    """Strike out a recorded entry or exit: it stays in the history and counts no more."""
    from v7_pipeline.scan.manual import revise

    settings = settings_of(demo)
    why = " ".join(reason.split())
    if not why:
        raise UsageProblemError('--reason is blank; say why, such as --reason "another account"')
    trade = _tried(
        revise, _store(settings), settings, event_id, now=datetime.now(UTC), marks=_marks(settings), reason=why
    )  # fmt: skip
    _tell(settings, f"voided {event_id}; it stays in the history", trade)


@app.command(name="list", epilog="Examples: `v7 trade list` · `v7 trade list --events --demo`")
def list_trades(
    events: Annotated[bool, typer.Option("--events", help="Every event as it was recorded.")] = False,
    demo: Demo = None,
) -> None:
    """Your trades, newest first, with the ids of their events."""
    from rich.table import Table

    from v7_pipeline.console import out
    from v7_pipeline.scan.manual import read_trades
    from v7_pipeline.trades.manual import standing

    settings = settings_of(demo)
    with _store(settings).reading() as reader:
        found = read_trades(settings, reader, datetime.now(UTC))
        steps = _steps(reader, {row["symbol"] for _, rows in found for row in rows})
        query = "SELECT signal_id, outcome, r_multiple, net_return FROM outcomes WHERE kind = 'manual' AND source = ?"
        outcomes = {row["signal_id"]: row for row in reader.rows(query, (settings.source,))}
    if not found:
        out().print(f"{_mark(settings)}no trades of your own yet; record one with v7 trade entry SIGNAL_ID PRICE")
        return
    title = f"{_mark(settings)}{len(found)} trade{'s' * (len(found) != 1)} of your own, net of the recorded fees"
    table = Table(title=title, title_justify="left")
    for name in ("signal", "side", "entry", "quantity", "open", "exit", "P&L $", "R", "state", "events"):
        table.add_column(name, overflow="fold")
    for trade, rows in reversed(found):
        ids = [row["event_id"] for row in rows] if events else [event.event_id for event in standing(rows)]
        listed = "\n".join(one.removeprefix(f"{rows[0]['signal_id']}-") for one in ids)
        if trade is None:
            table.add_row(rows[0]["signal_id"], rows[0]["side"], *["–"] * 6, "voided", listed)
            continue
        told = outcomes.get(trade.signal_id, {})
        table.add_row(
            trade.signal_id, trade.side, _price(trade.entry_price, steps[trade.symbol]), f"{trade.quantity:.8g}",
            f"{trade.left:.8g}", _price(trade.exit_price, steps[trade.symbol]),
            f"{trade.pnl_usd:,.2f}" if trade.closed else "–", _number(told.get("r_multiple")),
            str(told.get("outcome", "open")), listed,
        )  # fmt: skip
    out().print(table)


@app.command(epilog="Examples: `v7 trade export` · `v7 trade export --output trades.json --format json`")
def export(
    output: Annotated[Path | None, typer.Option(help="The file. Default: standard output.")] = None,
    layout: Annotated[Literal["csv", "json"], typer.Option("--format", help="csv or json.")] = "csv",
    demo: Demo = None,
) -> None:
    """Every event as it was recorded, edits and voids included, and whether it stands."""
    from v7_pipeline.scan.manual import read_trades
    from v7_pipeline.trades.manual import standing

    settings = settings_of(demo)
    with _store(settings).reading() as reader:
        found = read_trades(settings, reader, datetime.now(UTC))
    rows = []
    for _, recorded in found:
        stands = {event.event_id for event in standing(recorded)}
        edits = {row["event_id"].partition(".")[0]: row["event_id"] for row in recorded if row["action"] == "edit"}
        newest = {edits.get(key, key) for key in stands}
        rows += [{**row, "stands": row["event_id"] in newest, "demo": settings.mode == "demo"} for row in recorded]
    text = _as_json(rows) if layout == "json" else _as_csv(rows)
    if output is None:
        typer.echo(text, nl=False)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageProblemError(f"--output {output} cannot be written: {error.strerror}; name another file") from None
    typer.echo(f"{_mark(settings)}{len(rows)} events written to {output}")


def _record(
    action: str, signal_id: str, price: float, quantity: float | None, fee: float | None, at: str | None,
    demo: bool | None, *, reason: str | None = None, again: bool = False,
) -> None:  # fmt: skip
    from v7_pipeline.scan.manual import record

    settings, now = settings_of(demo), datetime.now(UTC)
    event, trade = _tried(
        record, _store(settings), settings, action, signal_id, price=_positive(price, "PRICE"), now=now,
        at=_past(at, now) if at else None, quantity=_positive(quantity, "--quantity"), fee_usd=_fee(fee),
        reason=reason, again=again, marks=_marks(settings),
    )  # fmt: skip
    step = _step(settings, event.symbol)
    assumed = f" (assumed: {settings.fees})" if fee is None else ""
    told = (
        f"{action} {event.event_id}: {event.side} {event.quantity:.8g} {event.symbol} at {_price(event.price, step)} "
        f"on {event.at:%Y-%m-%d %H:%M:%S}Z, fee ${event.fee_usd:,.2f}{assumed}"
    )
    _tell(settings, told, trade)


def _tell(settings: Settings, what: str, trade: ManualTrade | None) -> None:
    """What was done, and what the trade is now."""
    if trade is None:
        state = "nothing of this trade is left"
    elif trade.closed:
        state = f"closed: P&L ${trade.pnl_usd:,.2f} net of recorded fees"
    else:
        state = f"{trade.left:.8g} of {trade.quantity:.8g} open"
    typer.echo(f"{_mark(settings)}{what}. {state}")


def _tried(act: Any, *given: Any, **options: Any) -> Any:
    """`act`, its refusal in a person's words."""
    from v7_pipeline.scan.manual import TradeError

    try:
        return act(*given, **options)
    except TradeError as error:
        raise UsageProblemError(str(error)) from None


def _store(settings: Settings) -> Store:
    store = store_of(settings)
    if store.schema_version() is None:
        raise UsageProblemError("there is no store yet, so no signal to trade; run v7 scan or v7 up first")
    return store


def _positive(value: float | None, option: str) -> float | None:
    if value is not None and not (math.isfinite(value) and value > 0):
        raise UsageProblemError(f"{option} {value:g} is no amount; give a number above 0")
    return value


def _fee(value: float | None) -> float | None:
    if value is not None and not (math.isfinite(value) and value >= 0):
        raise UsageProblemError(f"--fee {value:g} is no fee; give 0 or more, in USD")
    return value


def _past(text: str, now: datetime) -> datetime:
    found = instant_of(text, "--at", example="2026-11-21T10:01:30Z")
    if found > now:
        raise UsageProblemError(f"--at {text} lies in the future; give an instant that has passed")
    return found


def _steps(reader: Reader, symbols: set[str]) -> dict[str, float | None]:
    """Each product's price step, as its newest candles show it; None where there are none."""
    from v7_pipeline.scan.decide import quote_increment

    candles = {symbol: reader.newest("candles", 240, symbols=[symbol]) for symbol in sorted(symbols)}
    return {symbol: None if rows.empty else quote_increment(rows) for symbol, rows in candles.items()}


def _step(settings: Settings, symbol: str) -> float | None:
    with store_of(settings).reading() as reader:
        return _steps(reader, {symbol})[symbol]


def _price(value: float, step: float | None) -> str:
    from v7_pipeline.alerts.text import price_text

    return price_text(value, step)


def _number(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:,.2f}"


def _as_json(rows: list[dict[str, Any]]) -> str:
    return json.dumps(rows, default=_instant, indent=1) + "\n"


def _as_csv(rows: list[dict[str, Any]]) -> str:
    from v7_pipeline.store.schema import table

    written = io.StringIO()
    names = [*table("manual_trades").column_names, "stands", "demo"]
    writer = csv.DictWriter(written, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: _instant(v) if isinstance(v, datetime) else v for k, v in row.items()} for row in rows)
    return written.getvalue()


def _instant(value: datetime) -> str:
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _marks(settings: Settings) -> dict[str, str]:
    return {"source": settings.source, "run_id": "v7 trade", "code_version": __version__}


def _mark(settings: Settings) -> str:
    return "DEMO " if settings.mode == "demo" else ""
