"""What the store raises: one clear sentence each, saying what, where and how to mend it.

No handling belongs here, but for telling a full disk from other troubles.
"""

from __future__ import annotations

import errno

__all__ = ["SchemaError", "StoreBusy", "StoreError", "StoreFull", "is_full"]

# As DuckDB, SQLite (a lake's catalog) and the system say it, within other words.
_FULL = ("No space left on device", "Disk quota exceeded", "database or disk is full", "File too large")


class StoreError(RuntimeError):
    """The store cannot do what was asked."""


class StoreBusy(StoreError):  # noqa: N818 (a state, not a fault)
    """Another process or thread held the store until the deadline; trying again later may work."""


class StoreFull(StoreError):  # noqa: N818 (a state, not a fault)
    """The disk has no room for a write; it was rolled back, and once there is room it may be done again."""


class SchemaError(StoreError):
    """A frame, or the store itself, does not have the declared schema."""


def is_full(error: BaseException) -> bool:
    """Whether `error`, of DuckDB or of the system, says that the disk (or one's share of it) is full."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return True
    return any(sign in str(error) for sign in _FULL)
