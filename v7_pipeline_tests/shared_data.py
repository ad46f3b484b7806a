"""Where the real recordings lie, and the skip for machines that do not have them."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def needs_shared(relative: str) -> Path:
    """The recording at `relative`, or a skip that says what is missing."""
    path = SHARED / relative
    if not path.exists():
        pytest.skip(f"recording not present on this machine: ../shared/data/{relative}")
    return path
