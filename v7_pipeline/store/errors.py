"""What the store raises: one clear sentence each, saying what, where and how to mend it.

No handling belongs here.
"""

from __future__ import annotations

__all__ = ["SchemaError", "StoreBusy", "StoreError"]


class StoreError(RuntimeError):
    """The store cannot do what was asked."""


class StoreBusy(StoreError):  # noqa: N818 (a state, not a fault)
    """Another process or thread held the store until the deadline; trying again later may work."""


class SchemaError(StoreError):
    """A frame, or the store itself, does not have the declared schema."""
