"""The ten theories: readings of past candles, their place under noise, votes and scores.

One file per theory, listed in registry.py; frames come in and go out through compute_features. Compiled kernels are
imported on first use only. Candles, stores and clocks do not belong here.
"""

from __future__ import annotations

from v7_pipeline.theories import registry
from v7_pipeline.theories.features import compute_features, warm_up
from v7_pipeline.theories.registry import explain

__all__ = ["compute_features", "explain", "registry", "warm_up"]
