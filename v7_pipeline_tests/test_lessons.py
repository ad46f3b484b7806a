"""Every way in which the first system failed has a test that names it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
NAMED = {
    int(number)
    for path in TESTS.rglob("test_*.py")
    for name in re.findall(r"^\s*def (test_\w+)", path.read_text(), re.MULTILINE)
    for number in re.findall(r"lesson_(\d\d)", name)
}
# Arms (23) are analysts so far, on the same questions; strategies side by side bring a test of their own.
LESSONS = range(1, 33)


@pytest.mark.parametrize("number", LESSONS)
def test_the_lesson_has_a_test_of_its_name(number: int) -> None:
    assert number in NAMED, f"no test_…lesson_{number:02d}… in {TESTS.name}"
