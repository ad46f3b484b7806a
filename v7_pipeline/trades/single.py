"""One position at a time: which of many labelled signals a trader takes who enters only when nothing is open.

Labels come from barriers.py and do not depend on one another; only this choice does.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from v7_pipeline.trades.frames import NO_INSTANT, by_symbol, microseconds, require

__all__ = ["one_at_a_time"]

_NEEDED = ("symbol", "as_of", "exit_time", "followed_until")


def one_at_a_time(outcomes: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """True for each of `follow`'s outcomes that is taken when a symbol has at most one position, in the rows' order.

    A symbol's signals are gone through by as_of; one is taken where its as_of is at or after the end of the exit's
    candle of the trade before it, since only then its close is known. A trade that is still open lets nothing more in.
    Symbols do not meet. Of two signals of one symbol and instant the first row counts. ValueError for naive instants
    and missing columns.
    """
    require(outcomes, _NEEDED, "outcomes")
    signalled = microseconds(outcomes["as_of"], "as_of")
    closed = microseconds(outcomes["exit_time"], "exit_time") != NO_INSTANT
    free = np.where(closed, microseconds(outcomes["followed_until"], "followed_until"), np.iinfo(np.int64).max)
    taken = np.zeros(len(outcomes), dtype=bool)
    for places in by_symbol(outcomes).values():
        order = places[np.argsort(signalled[places], kind="stable")]
        # The first signal that finds the symbol free again after each of them; an instant's second row is no later one.
        instants = signalled[order]
        following = np.searchsorted(instants, np.maximum(free[order], instants + 1)).tolist()
        place = 0
        while place < len(order):
            taken[order[place]] = True
            place = following[place]
    return taken
