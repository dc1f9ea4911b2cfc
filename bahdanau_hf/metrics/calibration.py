"""Confidence that can be believed: fitted to what proved right, and held against it.

Of all words of which a calibrated model says 0.8, four out of five are right. The fit is logistic
(Platt 1999, "Probabilistic Outputs for Support Vector Machines"); how far it is off is the expected
calibration error, ECE (Guo et al. 2017, "On Calibration of Modern Neural Networks", section 2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

_NUM_BINS = 10
_RIDGE = 1e-3  # keeps weights finite where the outcomes can be told apart without a fault
_NUM_STEPS = 1000


@dataclass(frozen=True)
class Reliability:
    """What was stated and what was right, in bins of equal width that are not empty."""

    confidences: tuple[float, ...]  # mean of each bin, ascending, in [0, 1]
    accuracies: tuple[float, ...]  # share of each bin that was right
    counts: tuple[int, ...]

    @property
    def ece(self) -> float:
        """Mean distance of stated and right, each bin by its count; in [0, 1]."""
        gaps = np.abs(np.subtract(self.confidences, self.accuracies))
        return float(np.average(gaps, weights=self.counts))

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values, `ece` included."""
        values = {name: [round(v, 4) for v in row] for name, row in vars(self).items()}
        return {"ece": round(self.ece, 4), **values}


def fit_logistic(features: np.ndarray, outcomes: np.ndarray) -> np.ndarray:
    """Fit `predict_logistic` to outcomes by maximum likelihood.

    Each step takes the largest curvature that the likelihood can have, so that none overshoots
    (Böhning and Lindsay 1988, "Monotonicity of quadratic-approximation algorithms"). Features are
    `(N, F)`, finite; outcomes `(N,)`, 0 wrong to 1 right; weights `(F + 1,)`, the constant first.
    """
    x = np.column_stack([np.ones(len(features)), features])
    inverse = np.linalg.inv(x.T @ x / 4 + _RIDGE * np.eye(x.shape[1]))
    weights = np.zeros(x.shape[1])
    for _ in range(_NUM_STEPS):
        slope = x.T @ (outcomes - predict_logistic(weights, features)) - _RIDGE * weights
        weights = weights + inverse @ slope
    return weights


def predict_logistic(weights: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Probabilities `(N,)` for features `(N, F)`, by the weights of `fit_logistic`."""
    return (1 + np.tanh((weights[0] + features @ weights[1:]) / 2)) / 2


def reliability(confidences: np.ndarray, outcomes: np.ndarray) -> Reliability:
    """Sort confidences into bins; both `(N,)`, N at least 1, in [0, 1]."""
    places = np.minimum((confidences * _NUM_BINS).astype(int), _NUM_BINS - 1)
    counts = np.bincount(places, minlength=_NUM_BINS)
    filled = counts > 0
    means = [
        tuple((np.bincount(places, values, _NUM_BINS)[filled] / counts[filled]).tolist())
        for values in (confidences, outcomes)
    ]
    return Reliability(means[0], means[1], tuple(counts[filled].tolist()))
