"""Every way in which the first system failed, as far as it is built by now, has a test that names it."""

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
BUILT = (1, 2, 4, 7, 13, 14, 18, 19, 20, 21, 27, 30, 32)


@pytest.mark.parametrize("number", BUILT)
def test_the_lesson_has_a_test_of_its_name(number: int) -> None:
    assert number in NAMED, f"no test_…lesson_{number:02d}… in {TESTS.name}"
