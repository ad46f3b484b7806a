"""The runs' own log as JSON lines: a Dagster logger in the place of the coloured console, where V7_LOG_JSON says so.

What a line looks like is logs.py's business.
"""

# No postponed annotations here: Dagster reads those of its decorated functions as they are.
import logging
import sys
from typing import Any

import dagster as dg

from v7_pipeline.logs import JsonLines, secrets_of
from v7_pipeline.settings import Settings

__all__ = ["JSON_CONFIG", "build_loggers"]

# A job uses a logger only where its run config names it.
JSON_CONFIG = {"loggers": {"console": {"config": {"log_level": "INFO"}}}}


def build_loggers(settings: Settings) -> dict[str, dg.LoggerDefinition]:
    """The loggers of our jobs, by name: none of our own, or the console that speaks JSON on stderr."""
    if not settings.log_json:
        return {}

    @dg.logger({"log_level": dg.Field(str, default_value="INFO")}, description="One JSON object a line.")
    def json_lines(context: dg.InitLoggerContext) -> logging.Logger:
        logger = _FreshLogger("dagster.run")
        handler: Any = logging.StreamHandler(sys.stderr)
        handler.setFormatter(JsonLines(secrets_of(settings)))
        logger.addHandler(handler)
        logger.setLevel(str(context.logger_config["log_level"]))
        return logger

    return {"console": json_lines}


class _FreshLogger(logging.Logger):
    """A logger outside of the process's register: each run has its own handler, and none hears another's."""
