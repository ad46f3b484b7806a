"""The theories in the schema's order: each is the file of its name in this folder.

Only the list and what is derived from it. An eleventh theory is one file of the same shape here, and one line in
THEORY_VALUES of store/schema.py, which also gives it its columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, cast

from v7_pipeline.store.schema import THEORY_VALUES
from v7_pipeline.theories.base import Theory

__all__ = ["SIMULATED_NULLS", "THEORIES", "column_names", "explain", "theory"]


def _load(name: str) -> Theory:
    try:
        module = import_module(f"v7_pipeline.theories.{name}")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"store/schema.py lists the theory {name!r}, but theories/{name}.py is missing ({error})"
        ) from None
    lacking = [part for part in _PARTS if not hasattr(module, part)]
    if lacking:
        raise AttributeError(f"theories/{name}.py lacks {', '.join(lacking)}; every theory has {', '.join(_PARTS)}")
    return cast("Theory", module)


_PARTS = ("NAME", "values", "percentile", "score", "vote", "explain")

THEORIES: tuple[Theory, ...] = tuple(_load(name) for name in THEORY_VALUES)

#: Theories whose null distribution is simulated (nulls/): those that look their percentile up there. They have a
#: function `statistic(bars)`.
SIMULATED_NULLS: tuple[Any, ...] = tuple(entry for entry in THEORIES if hasattr(entry, "simulated_percentile"))


def theory(name: str) -> Theory:
    """The theory called `name`; KeyError that lists the known ones."""
    found = {entry.NAME: entry for entry in THEORIES}.get(name)
    if found is not None:
        return found
    raise KeyError(f"no theory {name!r}; there are {', '.join(entry.NAME for entry in THEORIES)}")


def column_names(windows: tuple[int, ...]) -> list[str]:
    """Value, percentile, vote and score columns of all theories for these windows, in the schema's order."""
    names: list[str] = []
    for entry in THEORIES:
        for name, _unit, _meaning, windowed in THEORY_VALUES[entry.NAME]:
            names += [f"{name}_{w}" for w in windows] if windowed else [name]
        names += [f"{entry.NAME}_{part}" for part in ("percentile", "vote", "score")]
    return names


def explain(theory_name: str, row: Mapping[str, Any]) -> str:
    """One sentence a trader understands for this reading (a theory_features row); says why where it abstains."""
    return theory(theory_name).explain(row)
