"""Metrics of dictionaries, against closed forms."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hagd.dictionaries.metrics import (
    cross_entropy,
    divergence,
    fires,
    fraction_unexplained,
    mean_active,
    recovered_share,
)


def test_the_mean_predictor_leaves_everything_unexplained_and_the_truth_nothing() -> None:
    out = torch.randn(53, 7, generator=torch.Generator().manual_seed(0)) + 5
    assert fraction_unexplained(out, out.mean(0).expand_as(out)) == pytest.approx(1)
    assert fraction_unexplained(out, out) == 0


@given(st.floats(-3, 3))
def test_scaling_the_deviation_from_the_mean_by_s_leaves_one_minus_s_squared(s: float) -> None:
    out = torch.randn(53, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rebuilt = out.mean(0) + s * (out - out.mean(0))
    assert fraction_unexplained(out, rebuilt) == pytest.approx((1 - s) ** 2, abs=1e-12)


def test_a_constant_output_is_explained_only_when_met_exactly() -> None:
    out = torch.ones(5, 3)
    assert fraction_unexplained(out, out) == 0
    assert math.isinf(fraction_unexplained(out, out + 1))


def test_active_features_are_counted_per_token_and_over_tokens() -> None:
    features = torch.tensor([[0.0, 2.0, -1.0], [0.0, 0.0, 4.0]])
    assert mean_active(features) == 1.5
    assert fires(features).tolist() == [False, True, True]


def test_recovered_share_is_one_for_the_model_and_zero_without_mlps() -> None:
    assert recovered_share(0.5, 0.5, 2.5) == 1
    assert recovered_share(0.5, 2.5, 2.5) == 0
    assert recovered_share(0.5, 1.0, 2.5) == pytest.approx(0.75)
    assert recovered_share(0.5, 1.0, 0.4) is None


def test_cross_entropy_and_divergence_match_two_coins() -> None:
    logits = torch.tensor([[[math.log(0.25), math.log(0.75)]]])
    fair = torch.zeros(1, 1, 2)
    assert cross_entropy(logits, torch.tensor([[1]])) == pytest.approx(-math.log(0.75))
    expected = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert divergence(logits, fair) == pytest.approx(expected)
    assert divergence(fair, fair) == 0
