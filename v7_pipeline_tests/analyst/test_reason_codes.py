"""Every reason that an analyst may give for having no answer is explained, and no other."""

from __future__ import annotations

from types import ModuleType

from v7_pipeline.analyst import base, breaker, deepseek, replay, reply
from v7_pipeline.gates.reasons import ANALYST_REASONS, REASONS, explain

# REFUSED raises; BUDGET_DAY and BUDGET_MONTH are gates' codes too; NO_USAGE is an error of an answer that can be used.
NO_REASONS = {"REFUSED", "NO_USAGE"}


def codes(module: ModuleType) -> set[str]:
    """The values of a module's constants that are codes: a name that is its own value."""
    return {name for name, value in vars(module).items() if name.isupper() and value == name}


def test_every_code_of_the_analysts_is_explained_once() -> None:
    given = set().union(*map(codes, (base, breaker, deepseek, replay, reply))) - NO_REASONS
    assert given == set(ANALYST_REASONS) | {"BUDGET_DAY", "BUDGET_MONTH"}
    assert not set(ANALYST_REASONS) & set(REASONS)
    for code in given:
        assert explain(f"ABSTAINED:{code}").meaning and explain(f"SKIPPED:{code}").remedy
