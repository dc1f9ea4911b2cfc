"""Calibration: a fit that finds what made the outcomes, and an error by its definition."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bahdanau_hf.metrics.calibration import fit_logistic, predict_logistic, reliability


def test_the_fit_finds_the_weights_that_made_the_outcomes() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(2000, 3)) * [1, 3, 0.5] + [0, 2, -1]
    weights = np.array([-0.5, 1.2, -0.3, 0.8])
    outcomes = predict_logistic(weights, features)  # shares: what many draws would give
    np.testing.assert_allclose(fit_logistic(features, outcomes), weights, atol=0.02)
    drawn = (random.random(2000) < outcomes).astype(float)
    np.testing.assert_allclose(fit_logistic(features, drawn), weights, atol=0.3)


def test_the_fit_is_a_highest_point_of_the_likelihood() -> None:
    random = np.random.default_rng(1)
    features = random.normal(size=(300, 2))
    outcomes = (random.random(300) < 0.9).astype(float)
    weights = fit_logistic(features, outcomes)

    def likelihood(w: np.ndarray) -> float:
        p = predict_logistic(w, features)
        return float((outcomes * np.log(p) + (1 - outcomes) * np.log(1 - p)).sum())

    best = likelihood(weights)
    for change in np.eye(3) * 0.05:
        assert likelihood(weights + change) < best
        assert likelihood(weights - change) < best


@pytest.mark.parametrize("outcome", [0.0, 1.0])
def test_outcomes_without_a_fault_give_finite_weights(outcome: float) -> None:
    features = np.random.default_rng(2).normal(size=(50, 2))
    weights = fit_logistic(features, np.full(50, outcome))
    assert np.isfinite(weights).all()
    assert abs(predict_logistic(weights, features) - outcome).max() < 0.05


def test_probabilities_stay_in_bounds_far_out() -> None:
    stated = predict_logistic(np.array([0.0, 1.0]), np.array([[-1e6], [0.0], [1e6]]))
    assert stated.tolist() == [0.0, 0.5, 1.0]


def test_bins_and_error_by_hand() -> None:
    # bins [0.1, 0.2): 0.15 and 0.11; [0.8, 0.9): 0.85; [0.9, 1]: 1.0
    found = reliability(np.array([0.15, 1.0, 0.11, 0.85]), np.array([0.0, 1.0, 1.0, 0.0]))
    assert found.confidences == pytest.approx((0.13, 0.85, 1.0))
    assert found.accuracies == pytest.approx((0.5, 0.0, 1.0))
    assert found.counts == (2, 1, 1)
    assert found.ece == pytest.approx((2 * 0.37 + 0.85 + 0) / 4)
    assert json.loads(json.dumps(found.as_dict()))["counts"] == [2, 1, 1]


@given(st.lists(st.tuples(st.floats(0, 1), st.sampled_from([0.0, 0.5, 1.0])), min_size=1))
def test_the_error_is_at_least_that_of_the_means(pairs: list[tuple[float, float]]) -> None:
    stated, right = np.array(pairs).T
    found = reliability(stated, right)
    assert sum(found.counts) == len(pairs)
    assert abs(stated.mean() - right.mean()) - 1e-9 <= found.ece <= 1
    assert list(found.confidences) == sorted(found.confidences)
