"""JSON lines: one object an event, secrets never in them, whatever carries them there."""

# No postponed annotations here: Dagster reads those of its decorated functions as they are.

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg
import pytest

from v7_pipeline.logs import JsonLines, configure, secrets_of
from v7_pipeline.orchestration.jobs import SCAN_JOB
from v7_pipeline.orchestration.logger import JSON_CONFIG, build_loggers

KEY = "sk-0123456789abcdef"
BOT = "123456789:AAtoken-of-a-bot"
Make = Callable[..., Any]


@pytest.fixture
def secret(make_settings: Make) -> Any:
    return make_settings(log_json=True, DEEPSEEK_API_KEY=KEY, alert_urls=f"tgram://{BOT}/4242424242")


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """The process's logging as it was before."""
    root = logging.getLogger()
    handlers, forms = list(root.handlers), [handler.formatter for handler in root.handlers]
    yield
    root.handlers[:] = handlers
    for handler, form in zip(handlers, forms, strict=True):
        handler.setFormatter(form)


def line(secret: Any, *args: Any, **extra: Any) -> dict[str, Any]:
    record = logging.LogRecord("v7_pipeline.x", logging.WARNING, __file__, 1, *args, None)
    vars(record).update(extra)
    text = JsonLines(secrets_of(secret)).format(record)
    assert "\n" not in text
    return json.loads(text)


def test_a_line_says_when_who_what_and_its_extras(secret: Any) -> None:
    told = line(secret, "%s of %d\nlines", ("two", 2), symbol="BTC-USD", rows=3)
    assert told["message"] == "two of 2\nlines" and told["level"] == "warning" and told["logger"] == "v7_pipeline.x"
    assert told["time"].endswith("+00:00") and (told["symbol"], told["rows"]) == ("BTC-USD", 3)


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {KEY}",
        f"tgram://{BOT}/4242424242 refused",
        "https://api.telegram.org/bot123456789:AAtoken-of-a-bot/sendMessage",
        "postgresql://v7:hunter2hunter2@db/v7 password=hunter2hunter2",
    ],
)
def test_secrets_are_masked_in_message_extra_and_traceback(secret: Any, text: str) -> None:
    try:
        raise RuntimeError(text)
    except RuntimeError as error:
        caught = (type(error), error, error.__traceback__)
    told = json.dumps([line(secret, text, ()), line(secret, "x", (), url=text, deep={"a": [text]}, exc_info=caught)])
    for word in (KEY, BOT, "AAtoken-of-a-bot", "hunter2hunter2", "4242424242"):
        assert word not in told
    assert "…" in json.loads(told)[0]["message"]


def test_nothing_changes_without_the_setting(make_settings: Make) -> None:
    before = [handler.formatter for handler in logging.getLogger().handlers]
    configure(make_settings())
    assert [handler.formatter for handler in logging.getLogger().handlers] == before


def test_the_process_logs_lines(secret: Any, capsys: pytest.CaptureFixture[str]) -> None:
    logging.getLogger().handlers[:] = []
    configure(secret)
    logging.getLogger("v7_pipeline.y").warning("key %s", KEY)
    assert json.loads(capsys.readouterr().err)["message"] == "key …"


@dg.op
def speak(context: dg.OpExecutionContext) -> None:
    context.log.info(f"spoken with {KEY}")


def test_every_event_of_a_run_is_a_line(secret: Any, capsys: pytest.CaptureFixture[str]) -> None:
    @dg.job(logger_defs=build_loggers(secret), config=JSON_CONFIG)
    def job() -> None:
        speak()

    with dg.instance_for_test() as instance:
        run = job.execute_in_process(instance=instance)
    lines = [json.loads(text) for text in capsys.readouterr().err.splitlines()]
    assert {told["run_id"] for told in lines} == {run.run_id}
    assert [told["text"] for told in lines if told.get("step_key") == "speak" and "event" not in told] == [
        "spoken with …"
    ]
    assert KEY not in json.dumps(lines)


def test_a_scan_of_a_day_uses_it(secret: Any, make_settings: Make) -> None:
    from v7_pipeline.definitions import build_definitions

    for settings, config in ((secret, JSON_CONFIG), (make_settings(), {})):
        job = build_definitions(settings).resolve_job_def(SCAN_JOB)
        assert job.partitioned_config.get_run_config_for_partition_key("2026-03-03") == config


def test_jobs_that_are_no_assets_use_it_too(
    secret: Any, make_settings: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    from v7_pipeline.definitions import build_definitions

    for settings in (secret, make_settings()):
        job = build_definitions(settings).resolve_job_def("retention")
        with dg.instance_for_test() as instance:
            assert job.execute_in_process(instance=instance).success
        lines = [text for text in capsys.readouterr().err.splitlines() if "prune_old_runs" in text]
        assert lines and all(text.startswith("{") for text in lines) is settings.log_json
