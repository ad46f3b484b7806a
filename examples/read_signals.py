"""Read the store from your own code: the last accepted signals and what became of them, as a pandas frame.

Run:  .venv/bin/python examples/read_signals.py            the store that your settings name
      .venv/bin/python examples/read_signals.py duckdb:.v7/demo/v7.duckdb 5

The store is opened read-only and only for the moment of the query, so a running pipeline is not held up.
"""
# ruff: noqa: T201

from __future__ import annotations

import sys

import pandas as pd

from v7_pipeline.settings import load_settings
from v7_pipeline.store import Store, open_store

# Tables and columns are described in docs/data_dictionary.md; parameters are written ? and never pasted into the text.
LAST_ACCEPTED = """
SELECT g.signal_id, g.side, g.tier, s.confidence, s.entry_price, s.stop_price, s.target_price, g.quantity, g.risk_usd,
       o.outcome, o.r_multiple, o.pnl_usd, g.source
FROM gated_signals g JOIN llm_signals s USING (signal_id)
LEFT JOIN outcomes o ON o.signal_id = g.signal_id AND o.kind = 'paper'
WHERE g.accepted ORDER BY g.as_of DESC, g.symbol LIMIT ?
"""


def last_accepted(store: Store, n: int = 10) -> pd.DataFrame:
    """The newest `n` accepted signals, newest first; outcome, R and P&L are missing while a trade is not followed."""
    return store.query(LAST_ACCEPTED, (n,))


def main(arguments: list[str]) -> None:
    url = arguments[0] if arguments else load_settings().store_url
    signals = last_accepted(open_store(url), int(arguments[1]) if len(arguments) > 1 else 10)
    if signals.empty:
        print(f"no accepted signal in {url} yet; v7 signals shows the decisions and why they were not accepted")
        return
    print(signals.to_string(index=False))
    # Where a row comes from is part of it: never add up rows of different sources.
    print(f"\n{len(signals)} signals, source: {', '.join(sorted(set(signals['source'])))}")


if __name__ == "__main__":
    main(sys.argv[1:])
