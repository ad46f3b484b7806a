"""What the evidence proposes as the rules' theory weights: equal ones, moved only as far as chance does not explain.

Pure: evidence in, a proposal out. Whether a proposal acts, and from when, is the scan's part.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from v7_pipeline.learning.frames import require

__all__ = ["Proposal", "proposed_weights", "weights_frame"]

Floats = npt.NDArray[np.float64]

_CHANCE = 0.05


@dataclass(frozen=True)
class Proposal:
    """`weights` sum to 1; `equal_share` is how much of them is the equal weighting (1: no evidence for another)."""

    weights: Floats
    equal_share: float
    heterogeneity_p: float
    between_variance: float
    shrunk_excess: Floats


def proposed_weights(excess: npt.ArrayLike, n_eff: npt.ArrayLike, *, min_effective_n: float) -> Proposal:
    """Weights for theories that were right `excess` more often than expected (shares) over `n_eff` votes.

    Theories below min_effective_n (or without a figure) have no say and keep an equal weight. Where the others differ
    no more than binomial noise does (Cochran's Q, p > 0.05) all weights are equal. Else each excess is shrunk towards
    their mean with the variance between them (DerSimonian & Laird 1986), weights follow its positive part, and these
    are mixed with equal ones: equal_share is the mean part of a theory's excess that noise explains.
    """
    e, n = np.asarray(excess, dtype=float), np.asarray(n_eff, dtype=float)
    if e.shape != n.shape or e.ndim != 1 or not len(e):
        raise ValueError("excess and n_eff are one row each, of one length, not empty")
    count = len(e)
    judged = np.isfinite(e) & (n >= max(min_effective_n, 1.0))
    even = np.full(count, 1 / count)
    m = int(judged.sum())
    if m < 2:
        return Proposal(even, 1.0, float("nan"), 0.0, np.full(count, np.nan))
    from scipy.special import chdtrc

    noise = 0.25 / n[judged]
    precision = 1 / noise
    centre = float((precision * e[judged]).sum() / precision.sum())
    q = float((precision * (e[judged] - centre) ** 2).sum())
    between = max(0.0, (q - (m - 1)) / float(precision.sum() - (precision**2).sum() / precision.sum()))
    p = float(chdtrc(m - 1, q))
    trust = between / (between + noise)
    shrunk = np.full(count, np.nan)
    shrunk[judged] = centre + trust * (e[judged] - centre)
    earned = np.clip(shrunk[judged], 0.0, None)
    if p > _CHANCE or not earned.sum() > 0:
        return Proposal(even, 1.0, p, between, shrunk)
    learnt = even.copy()
    learnt[judged] = m / count * earned / earned.sum()  # what the judged ones share is theirs under equal weights
    share = float(1 - trust.mean())
    return Proposal(share * even + (1 - share) * learnt, share, p, between, shrunk)


def weights_frame(evidence: pd.DataFrame, *, as_of: pd.Timestamp, min_effective_n: float) -> pd.DataFrame:
    """The theory_weights rows (without provenance and `acting`) of `as_of`, one for each theory of `evidence`.

    evidence: theory_name, n_eff, accuracy, expected_accuracy, holm_p of one scope. ValueError where one is missing.
    """
    require(evidence, ("theory_name", "n_eff", "accuracy", "expected_accuracy", "holm_p"), "evidence rows")
    excess = evidence["accuracy"].to_numpy(float) - evidence["expected_accuracy"].to_numpy(float)
    found = proposed_weights(excess, evidence["n_eff"], min_effective_n=min_effective_n)
    told = [
        json.dumps(
            {
                "n_eff": _figure(row["n_eff"]),
                "accuracy": _figure(row["accuracy"]),
                "expected_accuracy": _figure(row["expected_accuracy"]),
                "shrunk_excess": _figure(shrunk),
                "holm_p": _figure(row["holm_p"]),
                "heterogeneity_p": _figure(found.heterogeneity_p),
                "between_variance": _figure(found.between_variance),
                "min_effective_n": _figure(min_effective_n),
            }
        )
        for row, shrunk in zip(evidence.to_dict("records"), found.shrunk_excess, strict=True)
    ]
    return pd.DataFrame(
        {
            "as_of": pd.Series([as_of] * len(evidence)).astype("datetime64[us, UTC]"),
            "theory_name": evidence["theory_name"].to_numpy(),
            "weight": found.weights,
            "equal_share": found.equal_share,
            "evidence": told,
        }
    )


def _figure(value: Any) -> float | None:
    """A number for JSON, to 6 digits; None where it is missing."""
    return float(f"{value:.6g}") if np.isfinite(value) else None
