"""The `v7 llm` commands: an analyst's questions and answers shown, read again, exported, compared, asked once more.

Arguments in, one sentence out where they are wrong; the work is done in analyst/ and scan/.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer._click.exceptions import ClickException

from v7_pipeline.cli_common import Demo, settings_of, store_of
from v7_pipeline.settings import Settings

if TYPE_CHECKING:
    from v7_pipeline.scan.compare import Plan, Standing
    from v7_pipeline.scan.leave_out import Effect
    from v7_pipeline.store import Store

__all__ = ["app"]

app = typer.Typer(
    name="llm",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="The ledger's calls: show one, read a reply again, export them, compare analysts, leave a theory out.",
    epilog="Examples: `v7 llm show CALL_ID` · `v7 llm replay SIGNAL_ID` · `v7 llm export --output calls.jsonl` · "
    "`v7 llm compare --with rules` · `v7 llm leave-out --theory price_momentum`",
)

First = Annotated[str | None, typer.Option("--from", help="First UTC day of the scans, such as 2023-12-01.")]
Last = Annotated[str | None, typer.Option("--to", help="Last UTC day, included.")]

_PAGE = 500  # attempts read at once
_CALLS = "SELECT * FROM llm_calls WHERE call_id = ? ORDER BY attempt"
_OTHERS = "SELECT DISTINCT call_id FROM llm_calls WHERE signal_id = ? AND call_id <> ? ORDER BY call_id"
_NEWEST = "SELECT call_id FROM llm_calls GROUP BY call_id ORDER BY max(reserved_at) DESC, call_id LIMIT 3"
_SIGNAL = "SELECT * FROM llm_signals WHERE signal_id = ?"
_OF_SIGNAL = "SELECT call_id FROM llm_calls WHERE signal_id = ? ORDER BY reserved_at LIMIT 1"
_COUNT = "SELECT count(*) AS n FROM llm_calls WHERE as_of >= ? AND as_of < ? AND analyst = coalesce(?, analyst)"
_EXPORT = f"""
SELECT * FROM llm_calls
WHERE as_of >= ? AND as_of < ? AND analyst = coalesce(?, analyst)
  AND (as_of, call_id, attempt) > (?::TIMESTAMPTZ, ?, ?)
ORDER BY as_of, call_id, attempt LIMIT {_PAGE}
"""


@app.command(epilog="Examples: `v7 llm show deepseek-v7-BTC-USD-20231211T021200Z` · `v7 llm show SIGNAL_ID --demo`")
def show(
    call_id: Annotated[str, typer.Argument(help="A call's id, or a signal's: then the call that decided it.")],
    demo: Demo = None,
) -> None:
    """One call: its messages, and every attempt's reply, usage, cost, price entry, latency, status and error."""
    from v7_pipeline.console import out

    settings = settings_of(demo)
    with store_of(settings).reading() as reader:
        found = _call_of(reader, call_id)
        attempts = reader.rows(_CALLS, (found,))
        others = [row["call_id"] for row in reader.rows(_OTHERS, (attempts[0]["signal_id"], found))]
    console = out()
    for text in _told(attempts, others, demo=settings.mode == "demo"):
        console.print(text, markup=False, soft_wrap=True)


@app.command(epilog="Example: `v7 llm replay v7-BTC-USD-20231211T021200Z`")
def replay(
    signal_id: Annotated[str, typer.Argument(help="As `v7 signals` prints it.")],
    demo: Demo = None,
) -> None:
    """A stored reply read with today's code, beside the decision it made then; costs and writes nothing."""
    from rich.table import Table
    from rich.text import Text

    from v7_pipeline.analyst.prompt import prompt_version
    from v7_pipeline.analyst.replay import reread
    from v7_pipeline.console import out
    from v7_pipeline.scan.again import prompt_again

    settings = settings_of(demo)
    store = store_of(settings)
    rows = store.rows(_SIGNAL, (signal_id,))
    if not rows:
        raise ClickException(f"no signal {signal_id!r}; `v7 signals` lists the newest")
    (signal,) = rows
    if signal["call_id"] is None:
        why = f"skipped ({signal['status_reason']})" if signal["status"] == "skipped" else "decided without a call"
        raise ClickException(f"{signal_id} was {why} by {signal['analyst']}: there is no reply to read again")
    again = reread(store, signal)
    console = out()
    mark = " — DEMO" if settings.mode == "demo" else ""
    console.print(f"{signal_id} by {signal['analyst']}, call {signal['call_id']}{mark}", markup=False)
    if again.today is None:
        console.print(f"the call has no reply to read: {signal['status']} {signal['status_reason']}", markup=False)
    else:
        table = Table("", "stored", f"today, from attempt {again.attempt}", "", expand=False)
        for name, stored in again.stored.items():
            differs = "DIFFERS" if name in again.differences else ""
            table.add_row(name, Text(_shown(stored)), Text(_shown(again.today[name])), differs)
        console.print(table)
        different = ", ".join(again.differences)
        console.print(f"differences: {different or 'none'}", markup=False)
    version = signal["prompt_version"]
    template = "is today's" if version == prompt_version() else f"is not today's {prompt_version()}"
    prompt = prompt_again(store, settings, signal)
    verdict = {True: "hashes the same", False: "hashes differently", None: "cannot be made again"}[prompt.same]
    console.print(f"template {version} {template}", markup=False)
    console.print(f"today's prompt for it {verdict}: {prompt.told}", markup=False, soft_wrap=True)


@app.command(
    epilog="Examples: `v7 llm export --output calls.jsonl` · `v7 llm export --from 2023-12-01 --to 2023-12-12 "
    "--analyst deepseek`"
)
def export(
    first: First = None,
    last: Last = None,
    analyst: Annotated[str | None, typer.Option(help="Only this analyst's calls.")] = None,
    output: Annotated[Path | None, typer.Option(help="File to write, whole or not at all. Default: stdout.")] = None,
    demo: Demo = None,
) -> None:
    """The ledger as JSON lines, an attempt a line: instants in UTC, messages and parameters as JSON."""
    from v7_pipeline.console import RichTeller, out

    start, end = _span(first, last)
    settings = settings_of(demo)
    store = store_of(settings)
    teller = RichTeller(out(stderr=True))
    written = 0
    total = int(store.rows(_COUNT, (start, end, analyst))[0]["n"])
    try:
        with _lines_to(output) as write:
            for row in _attempts(store, start, end, analyst):
                write(json.dumps(_document(row), ensure_ascii=False, allow_nan=False))
                written += 1
                if written % _PAGE == 0 or written == total:
                    teller.progress("exporting", written, total)
    finally:
        teller.finish()
    teller.line(f"{written} attempts written to {output if output else 'stdout'}")


@app.command(
    epilog="Examples: `v7 llm compare --with rules` · `v7 llm compare --with rules --with local --from 2023-12-01 "
    "--to 2023-12-12 --limit 50 --yes`"
)
def compare(
    others: Annotated[list[str], typer.Option("--with", help="An analyst: rules, deepseek or a listed name; repeat.")],
    first: First = None,
    last: Last = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Questions: the newest so many.")] = 200,
    yes: Annotated[bool, typer.Option("--yes", help="Ask without confirming the cost.")] = False,
    demo: Demo = None,
) -> None:
    """The ledger's questions, word for word, to other analysts: their answers beside the decider's, and what they cost.

    Calls go through the ledger under the budgets; what an analyst answered before is not asked again.
    """
    from v7_pipeline.console import RichTeller, out
    from v7_pipeline.scan import compare as comparing

    start, end = _span(first, last)
    settings = settings_of(demo)
    names = list(dict.fromkeys(others))
    _check_names(names, settings)
    store = store_of(settings)
    kept = comparing.questions(store, start=start, end=end, limit=limit)
    if not kept:
        raise ClickException("the ledger holds no decided question of that time; widen --from and --to, or scan first")
    console, teller = out(), RichTeller(out(stderr=True))
    with services(settings, names) as runtime:
        marks = marks_of(settings)
        plans = {
            name: comparing.plan(store, runtime.paid_analyst(name, marks), kept) for name in names if name != "rules"
        }
        for name, plan in plans.items():
            teller.line(
                f"{name}: {len(kept)} questions, {len(plan.held)} answered before, {len(plan.to_ask)} to ask: "
                f"${plan.worst_usd:.4f} at most, an attempt each; a retry or a repair reserves anew within the budgets"
            )
        if any(plan.to_ask for plan in plans.values()) and not yes:
            typer.confirm("Ask them?", abort=True, err=True)
        said: dict[str, Mapping[str, Any]] = {}
        try:
            for name in names:
                if name == "rules":
                    said[name] = {q.asked.signal_id: comparing.rules_say(q.asked) for q in kept}
                else:
                    said[name] = comparing.ask_again(store, plans[name], teller.progress)
        finally:
            teller.finish()
    mark = " — DEMO" if settings.mode == "demo" else ""
    span = f"{kept[0].asked.as_of:%Y-%m-%d %H:%M}Z … {kept[-1].asked.as_of:%Y-%m-%d %H:%M}Z"
    console.print(f"{len(kept)} questions, {span}{mark}", markup=False)
    console.print(_standings(comparing.standings(kept, said)))
    console.print(
        "agreement: same side as the decision where both answered, 95 % Wilson. mean R: closed outcomes (paper and "
        "shadow, net) whose side it chose too; opposite sides are counted, not guessed.",
        markup=False,
    )


@app.command(
    epilog="Examples: `v7 llm leave-out --theory price_momentum --theory market_regime` · `v7 llm leave-out --limit 60 "
    "--from 2023-12-01 --to 2023-12-12 --yes --json`"
)
def leave_out(
    theory: Annotated[list[str] | None, typer.Option("--theory", help="A theory; repeat. Default: all ten.")] = None,
    first: First = None,
    last: Last = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Questions: the newest so many.")] = 20,
    yes: Annotated[bool, typer.Option("--yes", help="Ask without confirming the cost.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")] = False,
    demo: Demo = None,
) -> None:
    """The ledger's newest decided questions once more, without a theory and (the control) unchanged: what changes?

    Calls go through the ledger under the budgets, and decide nothing; what was answered before is not asked again.
    """
    from dataclasses import asdict

    from v7_pipeline.console import RichTeller, out
    from v7_pipeline.scan import compare as comparing
    from v7_pipeline.scan import leave_out as leaving
    from v7_pipeline.store.schema import THEORY_NAMES

    start, end = _span(first, last)
    settings = settings_of(demo)
    theories = list(dict.fromkeys(theory or THEORY_NAMES))
    if unknown := [name for name in theories if name not in THEORY_NAMES]:
        raise ClickException(f"--theory {unknown[0]}: no such theory; choose from {', '.join(THEORY_NAMES)}")
    store = store_of(settings)
    name = leaving.answered_last(store, start=start, end=end)
    if name is None:
        raise ClickException("the ledger holds no decided question of that time; widen --from and --to, or scan first")
    _check_can_ask(name, settings)
    decided = comparing.questions(store, start=start, end=end, limit=limit, answered_by=name)
    teller = RichTeller(out(stderr=True))
    with services(settings, [name]) as runtime:
        analyst = runtime.paid_analyst(name, marks_of(settings, "leave-out"))
        kept = leaving.kept(store, analyst, decided)
        if not kept:
            raise ClickException(
                f"none of these {len(decided)} questions was decided by {name}'s model and parameters of today, and no "
                f"other can be asked unchanged; choose other days, or set them as they were"
            )
        planned = leaving.arms(store, analyst, kept, theories)
        if len(decided) > len(kept):
            teller.line(f"{len(decided) - len(kept)} decided by another model or other parameters are left out")
        for line in _price(list(planned.values()), settings, asked=len(kept)):
            teller.line(line)
        if any(plan.to_ask for plan in planned.values()) and not yes:
            typer.confirm("Ask them?", abort=True, err=True)
        try:
            # Arm by arm: an arm's prompts begin alike, which the provider's cache makes cheaper.
            said = {arm: comparing.ask_again(store, plan, teller.progress) for arm, plan in planned.items()}
        finally:
            teller.finish()
    found = leaving.effects(kept, said, leaving.closed(store, kept), least=settings.min_effective_n)
    first_at, last_at = (f"{question.asked.as_of:%Y-%m-%d %H:%M}Z" for question in (kept[0], kept[-1]))
    is_demo = settings.mode == "demo"
    if as_json:
        rows = [asdict(effect) for effect in found]
        head = {"demo": is_demo, "analyst": name, "questions": len(kept), "first": first_at, "last": last_at}
        typer.echo(json.dumps(head | {"control": rows[0], "theories": rows[1:], "cannot_tell": _CANNOT_TELL}))
        return
    console = out()
    mark = " — DEMO" if is_demo else ""
    console.print(f"{len(kept)} questions to {name}, {first_at} … {last_at}{mark}", markup=False)
    console.print(_effects(found))
    console.print(_meaning(found, settings.min_effective_n), markup=False)


# --- show -----------------------------------------------------------------------------------


def _call_of(reader: Any, key: str) -> str:
    """The id of the call that `key` names, itself or by the signal it decided."""
    if reader.rows(_CALLS, (key,)):
        return key
    signals = reader.rows(_SIGNAL, (key,))
    if signals and signals[0]["call_id"] and reader.rows(_CALLS, (signals[0]["call_id"],)):
        return str(signals[0]["call_id"])
    tried = reader.rows(_OF_SIGNAL, (key,))
    if tried:
        return str(tried[0]["call_id"])
    if signals:
        raise ClickException(
            f"{key} was decided by {signals[0]['analyst']} without a call in this ledger ({signals[0]['status']}); "
            f"`v7 why {key}` tells its story"
        )
    newest = ", ".join(row["call_id"] for row in reader.rows(_NEWEST))
    raise ClickException(f"no call and no signal {key!r} in the ledger; the newest calls are {newest or 'none yet'}")


def _told(attempts: Sequence[Mapping[str, Any]], others: Sequence[str], *, demo: bool) -> Iterator[str]:
    """The lines of `v7 llm show`."""
    first = attempts[0]
    total = sum(_charge(row) for row in attempts)
    plural = "" if len(attempts) == 1 else "s"
    yield f"CALL {first['call_id']}{' — DEMO' if demo else ''}"
    yield f"signal {first['signal_id']}, scan of {first['as_of']:%Y-%m-%d %H:%M}Z, asked of {first['analyst']}"
    yield f"model {first['model']}, template {first['prompt_version']}, parameters {first['parameters']}"
    yield f"{len(attempts)} attempt{plural}, ${total:.6f} charged"
    if others:
        yield f"the same question elsewhere: {', '.join(others)}"
    shown = 0
    for row in attempts:
        messages = json.loads(row["prompt"])
        yield f"\n=== ATTEMPT {row['attempt']}: {row['status']}{_why(row)}"
        # A retry sends the same messages, a repair the same and two more: each is shown once.
        for message in messages[shown:]:
            yield f"--- {message['role']}\n{_pretty(message['content'])}"
        shown = max(shown, len(messages))
        yield f"--- reply ({_shown(row['finish_reason'])})\n{_pretty(row['raw_reply'] or 'none')}"
        yield from _figures(row)


def _figures(row: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"tokens: prompt {_shown(row['prompt_tokens'])} (of which cached {_shown(row['cache_hit_tokens'])}), "
        f"completion {_shown(row['completion_tokens'])} (of which thinking {_shown(row['reasoning_tokens'])})"
    )
    cost = "not settled" if row["cost_usd"] is None else f"${row['cost_usd']:.6f}"
    yield f"cost: {cost}, reserved ${row['reserved_usd']:.6f}, price {row['price_version']}"
    latency = "unknown" if row["latency_s"] is None else f"{row['latency_s']:.2f} s"
    settled = "not yet" if row["settled_at"] is None else f"{row['settled_at']:%Y-%m-%d %H:%M:%S}Z"
    yield f"latency: {latency}; reserved {row['reserved_at']:%Y-%m-%d %H:%M:%S}Z, ended {settled}"
    yield f"answered by: {_shown(row['returned_model'])}, fingerprint {_shown(row['fingerprint'])}"
    yield f"request: {row['prompt_hash']}"


def _why(row: Mapping[str, Any]) -> str:
    return f" — {row['error']}" if row["error"] else ""


def _charge(row: Mapping[str, Any]) -> float:
    return float(row["reserved_usd"] if row["cost_usd"] is None else row["cost_usd"])


def _pretty(text: str) -> str:
    """JSON over several lines, as far as it is JSON; a price keeps its decimals."""
    try:
        found = json.loads(text, parse_float=_Verbatim)
    except (ValueError, RecursionError):
        return text
    return json.dumps(found, ensure_ascii=False, indent=2) if isinstance(found, dict) else text


class _Verbatim(float):
    """A number that is printed as it was written."""

    def __new__(cls, text: str) -> _Verbatim:
        made = super().__new__(cls, text)
        made.text = text
        return made

    text: str

    def __repr__(self) -> str:
        return self.text


def _shown(value: Any) -> str:
    return "–" if value is None else str(value)


# --- export ---------------------------------------------------------------------------------


def _attempts(store: Store, start: datetime, end: datetime, analyst: str | None) -> Iterator[dict[str, Any]]:
    """The attempts in order, read page by page, so that nobody waits for the whole."""
    place: tuple[datetime, str, int] = (start - timedelta(microseconds=1), "", 0)
    while True:
        rows = store.rows(_EXPORT, (start, end, analyst, *place))
        yield from rows
        if len(rows) < _PAGE:
            return
        place = (rows[-1]["as_of"], rows[-1]["call_id"], rows[-1]["attempt"])


def _document(row: Mapping[str, Any]) -> dict[str, Any]:
    texts = {
        name: value.strftime("%Y-%m-%dT%H:%M:%S.%fZ") if isinstance(value, datetime) else value
        for name, value in row.items()
    }
    return texts | {"prompt": json.loads(row["prompt"]), "parameters": json.loads(row["parameters"])}


@contextmanager
def _lines_to(output: Path | None) -> Iterator[Any]:
    """A function that writes a line: to stdout, or to `output`, which appears only when all of it is written."""
    if output is None:
        yield lambda line: sys.stdout.write(f"{line}\n")
        return
    if output.is_dir() or not output.parent.is_dir():
        raise ClickException(f"--output {output} cannot be written; give a file in a folder that exists")
    with NamedTemporaryFile("w", encoding="utf-8", dir=output.parent, prefix=f".{output.name}.", delete=False) as file:
        try:
            yield lambda line: file.write(f"{line}\n")
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    Path(file.name).replace(output)


# --- compare --------------------------------------------------------------------------------


def _check_names(names: Sequence[str], settings: Settings) -> None:
    known = ("rules", "deepseek", *settings.listed_analysts)
    for name in names:
        if name not in known:
            raise ClickException(
                f"--with {name}: no such analyst; choose {', '.join(known)} (V7_ANALYSTS_FILE lists more)"
            )


def marks_of(settings: Settings, what: str = "compare") -> dict[str, str]:
    """The provenance of ledger rows that a command writes."""
    from v7_pipeline import __version__

    now = datetime.now(UTC)
    return {"source": settings.source, "run_id": f"{what}-{now:%Y%m%dT%H%M%SZ}", "code_version": __version__}


@contextmanager
def services(settings: Settings, names: Sequence[str]) -> Iterator[Any]:
    """The runtime that asks; in demo mode deepseek is the sandbox, started here where none runs."""
    from v7_pipeline.scan.runtime import build_runtime

    if settings.mode != "demo" or "deepseek" not in names:
        yield _prepared(build_runtime(settings))
        return
    from v7_pipeline.orchestration.up import answers, sandbox_settings
    from v7_pipeline.sandbox.server import SandboxServer

    url = f"http://{settings.host}:{settings.sandbox_port}"
    if answers(f"{url}/health"):
        yield _prepared(build_runtime(sandbox_settings(settings, url)))
        return
    with SandboxServer(seed=settings.sandbox_seed) as server:
        yield _prepared(build_runtime(sandbox_settings(settings, server.url)))


def _prepared(runtime: Any) -> Any:
    runtime.prepare_store()
    return runtime


def _standings(rows: Sequence[Standing]) -> Any:
    from rich.table import Table

    table = Table(expand=False)
    for name in (
        "analyst", "n", "buy", "sell", "hold", "unanswered", "agreement", "confidence", "latency", "cost", "mean R",
    ):  # fmt: skip
        table.add_column(name, overflow="fold")
    for place, row in enumerate(rows):
        low, high = row.agreement
        agreement = (
            f"{row.agreed / row.shared:.1%} ({low:.1%} … {high:.1%}, n = {row.shared})" if row.shared and place else "–"
        )
        opposite = f", {row.opposite} opposite" if row.opposite else ""
        mean_r = "–" if row.mean_r is None else f"{row.mean_r:+.2f}"
        table.add_row(
            row.analyst,
            str(row.n),
            *(str(row.sides[side]) for side in ("BUY", "SELL", "HOLD")),
            ", ".join(f"{reason} {count}" for reason, count in sorted(row.unanswered.items())) or "0",
            agreement,
            "–" if row.mean_confidence is None else f"{row.mean_confidence:.2f}",
            "–" if row.median_latency_s is None else f"{row.median_latency_s:.2f} s",
            f"${row.cost_usd:.4f}",
            f"{mean_r} (n = {row.n_r}{opposite})",
        )
    return table


# --- leave-out ------------------------------------------------------------------------------

_CANNOT_TELL = (
    "It holds for this prompt and this model only: what a theory adds to the others in these words. Theories that say "
    "the same replace one another, so that neither may seem to matter. Other words alone move a model's answers: some "
    "of what exceeds the control may be the missing words. A changed answer is not a worse one. Neighbouring questions "
    "share most of their facts and count as if they did not; runs over other theories are not corrected together."
)


def _check_can_ask(name: str, settings: Settings) -> None:
    if name == "deepseek" and settings.mode != "demo" and settings.deepseek_api_key is None:
        raise ClickException("deepseek answered these questions, and to ask it again needs DEEPSEEK_API_KEY; set it")
    if name != "deepseek" and name not in settings.listed_analysts:
        raise ClickException(f"{name} answered these questions; list it in V7_ANALYSTS_FILE to ask it again")


def _price(plans: Sequence[Plan], settings: Settings, *, asked: int) -> Iterator[str]:
    """What asking costs at most, arm by arm and in all, beside what the budgets hold."""
    from v7_pipeline.analyst.ledger import Ledger

    for plan in plans:
        held = f"{len(plan.held)} answered before, {len(plan.to_ask)} to ask"
        yield f"{plan.analyst.name}: {asked} questions, {held}: ${plan.worst_usd:.4f} at most"
    budgets = {"daily_budget_usd": settings.daily_budget_usd, "monthly_budget_usd": settings.monthly_budget_usd}
    left = Ledger(store_of(settings), **budgets, provenance=marks_of(settings)).spent(datetime.now(UTC))
    yield (
        f"in all {sum(len(plan.to_ask) for plan in plans)} to ask: ${sum(plan.worst_usd for plan in plans):.4f} at "
        f"most, an attempt each; a retry or a repair reserves anew. The budgets, which scans share, hold "
        f"${max(min(left.day_room, left.month_room), 0):.4f} now; what they do not hold is left for another day"
    )
    if asked < settings.min_effective_n:
        yield f"below {settings.min_effective_n} questions (V7_MIN_EFFECTIVE_N) no theory gets a verdict; see --limit"


def _effects(rows: Sequence[Effect]) -> Any:
    from rich.table import Table

    table = Table(expand=False)
    for column in ("without", "verdict", "n", "side changed", "Holm p", "confidence", "mean R", "unanswered", "cost"):
        table.add_column(column, overflow="fold")
    for row in rows:
        low, high = row.interval or (0.0, 1.0)
        interval = f"{row.changed / row.n:.1%} ({low:.1%} … {high:.1%})" if row.n else "–"
        control = f", control {row.control_changed / row.n:.1%}" if row.n and row.theory else ""
        r = [_signed(value, "+.2f") for value in (row.mean_r, row.control_mean_r, row.decided_mean_r)]
        table.add_row(
            row.theory or "nothing",
            row.verdict,
            str(row.n),
            interval + control,
            "–" if row.holm_p is None else f"{row.holm_p:.3f}",
            f"{_signed(row.confidence)}, control {_signed(row.control_confidence)} (n = {row.n_kept})",
            f"{r[0]}, control {r[1]}, decided {r[2]} (n = {row.n_r}, {row.opposite} opposite)",
            ", ".join(f"{reason} {count}" for reason, count in sorted(row.unanswered.items())) or "0",
            f"${row.cost_usd:.4f}",
        )
    return table


def _meaning(rows: Sequence[Effect], least: int) -> str:
    waiting = sum(count for row in rows for why, count in row.unanswered.items() if why.startswith("BUDGET_"))
    unasked = f"{waiting} were not asked for want of budget; the same command goes on with them. " if waiting else ""
    return (
        f"{unasked}side changed: against the decision, 95 % Wilson, of the n questions that arm and control answered. "
        f"Holm p: exact McNemar test of arm against control, over the theories above; none below {least} questions. "
        "confidence: change where all kept the side. mean R: closed outcomes (paper and shadow, net), a HOLD is 0; "
        f"opposite sides are counted, not guessed.\nWhat it cannot tell: {_CANNOT_TELL}"
    )


def _signed(value: float | None, form: str = "+.3f") -> str:
    return "–" if value is None else f"{value:{form}}"


# --- arguments ------------------------------------------------------------------------------


def _span(first: str | None, last: str | None) -> tuple[datetime, datetime]:
    """[start, end) of the days of --from and --to; without them, of all time."""
    start = _day(first, "--from") if first else date(2000, 1, 1)
    end = _day(last, "--to") if last else date(2100, 1, 1)
    if end < start:
        raise ClickException(f"--to {last} lies before --from {first}; swap them")
    begin = datetime(start.year, start.month, start.day, tzinfo=UTC)
    return begin, datetime(end.year, end.month, end.day, tzinfo=UTC) + timedelta(days=1)


def _day(text: str, option: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ClickException(f"{option} {text!r} is no day; write it as 2023-12-01") from None
