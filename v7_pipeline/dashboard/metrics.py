"""What a monitoring system reads: counters and gauges of the store in Prometheus' text format.

Each is a sum over a table, so that a restart, a restore or a second process changes no figure. Pages are app.py's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from v7_pipeline.dashboard.queries import ReadableStore

__all__ = ["CONTENT_TYPE", "METRICS", "Metric", "metrics_text"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True)
class Metric:
    """One metric: its name, whether it only grows, what it says, and the query with its labels and `value`."""

    name: str
    kind: str
    meaning: str
    sql: str


METRICS: tuple[Metric, ...] = (
    Metric("v7_scans_total", "counter", "Scans begun.", "SELECT count(*) AS value FROM scans"),
    Metric(
        "v7_scans_finished_total",
        "counter",
        "Scans that came to their end.",
        "SELECT count(*) AS value FROM scans WHERE status = 'finished'",
    ),
    Metric(
        "v7_scans_with_failures_total",
        "counter",
        "Scans in which a product could not be fetched.",
        "SELECT count(*) AS value FROM scans WHERE failures <> '{}'",
    ),
    Metric(
        "v7_scan_newest_timestamp_seconds",
        "gauge",
        "Instant of the newest finished scan.",
        "SELECT epoch(max(as_of)) AS value FROM scans WHERE status = 'finished'",
    ),
    Metric(
        "v7_candles_total",
        "counter",
        "Stored one-minute candles.",
        "SELECT symbol, count(*) AS value FROM candles GROUP BY symbol ORDER BY symbol",
    ),
    Metric(
        "v7_candle_newest_timestamp_seconds",
        "gauge",
        "Open time of the newest candle.",
        "SELECT symbol, epoch(max(open_time)) AS value FROM candles GROUP BY symbol ORDER BY symbol",
    ),
    Metric(
        "v7_outage_minutes_total",
        "counter",
        "Minutes that the market was asked for and had no candle of.",
        "SELECT symbol, sum(minutes) AS value FROM outages GROUP BY symbol ORDER BY symbol",
    ),
    Metric("v7_readings_total", "counter", "Stored readings.", "SELECT count(*) AS value FROM theory_features"),
    Metric(
        "v7_decisions_total",
        "counter",
        "Decisions, also those that were not made (their status says so).",
        "SELECT strategy, status, count(*) AS value FROM llm_signals GROUP BY ALL ORDER BY ALL",
    ),
    Metric(
        "v7_signals_accepted_total",
        "counter",
        "Signals that passed every gate.",
        "SELECT count(*) AS value FROM gated_signals WHERE accepted",
    ),
    Metric(
        "v7_outcomes_closed_total",
        "counter",
        "Outcomes that are known.",
        "SELECT kind, outcome, count(*) AS value FROM outcomes WHERE outcome <> 'open' GROUP BY ALL ORDER BY ALL",
    ),
    Metric(
        "v7_llm_calls_total",
        "counter",
        "Attempts to reach the analyst.",
        "SELECT analyst, count(*) AS value FROM llm_calls GROUP BY analyst ORDER BY analyst",
    ),
    Metric(
        "v7_llm_calls_failed_total",
        "counter",
        "Attempts that failed, or of which the end is unknown.",
        "SELECT analyst, count(*) AS value FROM llm_calls WHERE status IN ('failed', 'unknown') "
        "GROUP BY analyst ORDER BY analyst",
    ),
    Metric(
        "v7_llm_cost_usd_total",
        "counter",
        "Cost of settled attempts in USD.",
        "SELECT analyst, coalesce(sum(cost_usd), 0) AS value FROM llm_calls GROUP BY analyst ORDER BY analyst",
    ),
    Metric(
        "v7_alerts_total",
        "counter",
        "Alerts written.",
        "SELECT kind, severity, count(*) AS value FROM alerts GROUP BY ALL ORDER BY ALL",
    ),
    Metric(
        "v7_alerts_pending",
        "gauge",
        "Alerts that wait for delivery.",
        "SELECT count(*) AS value FROM alerts WHERE status = 'pending'",
    ),
    Metric(
        "v7_alerts_failed_total",
        "counter",
        "Alerts that could not be delivered.",
        "SELECT count(*) AS value FROM alerts WHERE status = 'failed'",
    ),
    Metric(
        "v7_halts_in_force",
        "gauge",
        "Halts in force.",
        "SELECT count(*) AS value FROM halts WHERE lifted_at IS NULL AND started_at <= $now "
        'AND ("until" IS NULL OR "until" > $now)',
    ),
)


def metrics_text(store: ReadableStore, now: datetime, mode: str) -> str:
    """All metrics at `now`, each with the label `mode`; one without a value yet has its description only."""
    lines: list[str] = []
    with store.reading() as reader:
        for metric in METRICS:
            times = metric.sql.count("$now")
            rows = reader.query(metric.sql.replace("$now", "?"), [now] * times).to_dict("records")
            lines += [f"# HELP {metric.name} {metric.meaning}", f"# TYPE {metric.name} {metric.kind}"]
            lines += [_line(metric.name, row, mode) for row in rows if not _unknown(row["value"])]
    return "\n".join(lines) + "\n"


def _line(name: str, row: dict[Any, Any], mode: str) -> str:
    labels: Sequence[tuple[str, Any]] = [
        ("mode", mode),
        *((str(key), value) for key, value in row.items() if key != "value"),
    ]
    value = float(row["value"])
    number = str(int(value)) if value.is_integer() else repr(value)
    inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels)
    return f"{name}{{{inside}}} {number}"


def _escaped(text: Any) -> str:
    return str(text).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _unknown(value: Any) -> bool:
    return value is None or value != value or (isinstance(value, float) and math.isinf(value))
