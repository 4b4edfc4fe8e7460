"""A step, on lists or on whole matrices, against autograd through the dictionary, and against brute force."""

from typing import Any

import pytest
import torch
from torch import Tensor

from hagd.dictionaries.dictionary import Dictionary
from hagd_transcoder.domain.sparse.dense import dense_step
from hagd_transcoder.domain.sparse.selection import select
from hagd_transcoder.domain.sparse.step import Encoder, sparse_step

TOKENS, WIDTH, FEATURES = 37, 12, 53
BOTH = pytest.mark.parametrize("take", [sparse_step, dense_step])


def weights(gated: bool, skip: bool, dtype: torch.dtype) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    found = {"enc": draw(FEATURES, WIDTH), "dec": draw(FEATURES, WIDTH), "b_enc": draw(FEATURES), "b_dec": draw(WIDTH)}
    found |= {"gate": draw(FEATURES, WIDTH), "b_gate": draw(FEATURES)} if gated else {}
    return found | ({"skip": draw(WIDTH, WIDTH)} if skip else {})


def dense(found: dict[str, Tensor], activation: str, k: int) -> Dictionary:
    gate = found.get("gate")
    return Dictionary(
        "transcoder" if gate is None else "gated",
        0,
        activation,
        k,
        None if gate is None else gate.T,
        found.get("b_gate"),
        found["enc"].T,
        found["b_enc"],
        found["dec"],
        found["b_dec"],
        found.get("skip"),
    )


def batch(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(6)
    x, out = (torch.randn(TOKENS, WIDTH, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))
    return x, out


@BOTH
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize(("activation", "gated"), [("relu", False), ("gelu", False), ("silu", True), ("relu", True)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_loss_and_gradients_are_those_of_autograd(
    take: Any, activation: str, gated: bool, skip: bool, dtype: torch.dtype, tolerance: float
) -> None:
    found, (x, out) = weights(gated, skip, dtype), batch(dtype)
    step = take(found, x, out, Encoder(activation, k=7), variance=3.0)

    exact = {name: tensor.double().requires_grad_() for name, tensor in found.items()}
    dictionary = dense(exact, activation, k=7)
    features = dictionary.encode(x.double())
    error = out.double() - dictionary.decode(features, x.double())
    loss = error.square().sum(-1).mean() / 3.0
    wanted = dict(zip(exact, torch.autograd.grad(loss, list(exact.values())), strict=True))

    assert step.loss == pytest.approx(float(loss.detach()), rel=tolerance * 10)
    assert set(step.gradients) == set(wanted)
    for name, gradient in wanted.items():
        assert float((step.gradients[name] - gradient).norm() / gradient.norm()) <= tolerance, name
    torch.testing.assert_close(step.error.double(), error.detach(), rtol=0, atol=1e3 * tolerance)
    assert step.fired.tolist() == (features != 0).sum(0).tolist()


@BOTH
def test_tokens_weigh_as_much_as_they_are_told(take: Any) -> None:
    found, (x, out) = weights(True, True, torch.float64), batch(torch.float64)
    importance = torch.zeros(TOKENS, dtype=torch.float64)
    importance[:10] = 0.05
    weighted = take(found, x, out, Encoder("silu", k=7), 3.0, importance)
    alone = take(found, x[:10], out[:10], Encoder("silu", k=7), 3.0)
    assert weighted.loss == pytest.approx(alone.loss / 2)
    for name, gradient in alone.gradients.items():
        torch.testing.assert_close(weighted.gradients[name], gradient / 2)


def test_a_product_in_half_precision_changes_what_is_kept_near_the_edge_and_nothing_else() -> None:
    found, (x, out) = weights(True, False, torch.float32), batch(torch.float32)
    exact = sparse_step(found, x, out, Encoder("silu", k=7), variance=3.0)
    half = sparse_step(found, x, out, Encoder("silu", k=7, half=True), variance=3.0)
    assert half.loss == pytest.approx(exact.loss, rel=0.02)
    # With everything kept there is no edge.
    all_exact = sparse_step(found, x, out, Encoder("silu", k=FEATURES), variance=3.0)
    all_half = sparse_step(found, x, out, Encoder("silu", k=FEATURES, half=True), variance=3.0)
    assert all_half.loss == pytest.approx(all_exact.loss, rel=1e-5)


@pytest.mark.parametrize("rule", ["topk", "batch-topk"])
@pytest.mark.parametrize(("activation", "gated"), [("relu", False), ("silu", True)])
def test_lists_and_whole_matrices_take_the_same_step(rule: Any, activation: str, gated: bool) -> None:
    found, (x, out) = weights(gated, True, torch.float64), batch(torch.float64)
    listed, whole = (take(found, x, out, Encoder(activation, 7, rule), 3.0) for take in (sparse_step, dense_step))
    assert whole.loss == pytest.approx(listed.loss)
    assert whole.weakest == pytest.approx(listed.weakest)
    assert whole.fired.equal(listed.fired)
    for name, gradient in listed.gradients.items():
        torch.testing.assert_close(whole.gradients[name], gradient)


@BOTH
@pytest.mark.parametrize("rule", ["topk", "batch-topk"])
def test_a_favoured_feature_wins_a_place_and_writes_what_it_would_anyway(take: Any, rule: Any) -> None:
    found, (x, out) = weights(False, False, torch.float64), batch(torch.float64)
    favour = torch.ones(FEATURES, dtype=torch.float64)
    favour[3] = 1e6
    act = torch.relu(x @ found["enc"].T + found["b_enc"])
    scores = act * found["dec"].norm(dim=1)
    usual, favoured = (take(found, x, out, Encoder("relu", 4, rule), 3.0, favour=it) for it in (None, favour))
    assert usual.fired[3] < favoured.fired[3] == (act[:, 3] > 0).sum()
    places = select(scores * favour, 4, rule)
    kept = torch.zeros_like(act)
    kept[places.token, places.feature] = act[places.token, places.feature]
    torch.testing.assert_close(favoured.error, out - kept @ found["dec"] - found["b_dec"])
    # The bar of BatchTopK is in the units of scores, whoever was favoured.
    assert favoured.weakest == pytest.approx(float(scores[places.token, places.feature].min()))


def test_whole_matrices_in_half_precision_point_where_exact_ones_do() -> None:
    found, (x, out) = weights(True, True, torch.float32), batch(torch.float32)
    exact, half = (dense_step(found, x, out, Encoder("silu", FEATURES, half=it), 3.0) for it in (False, True))
    assert half.loss == pytest.approx(exact.loss, rel=0.02)
    for name, gradient in exact.gradients.items():
        assert half.gradients[name].dtype == torch.float32
        assert float((half.gradients[name] - gradient).norm() / gradient.norm()) < 0.03, name


@pytest.mark.parametrize("rule", ["topk", "batch-topk"])
def test_the_strongest_are_kept(rule: Any) -> None:
    scores = torch.rand(TOKENS, FEATURES, generator=torch.Generator().manual_seed(1))
    chosen = select(scores, 5, rule)
    kept = torch.zeros_like(scores, dtype=torch.bool)
    kept[chosen.token, chosen.feature] = True
    if rule == "topk":
        edge = scores.sort(dim=1, descending=True).values[:, 4:5]
    else:
        edge = scores.flatten().sort(descending=True).values[5 * TOKENS - 1]
    assert kept.equal(scores >= edge)
    assert chosen.token.equal(chosen.token.sort().values)
    counts = torch.bincount(chosen.token, minlength=TOKENS)
    assert chosen.offsets.tolist() == (counts.cumsum(0) - counts).tolist()


def test_entries_by_feature_are_the_same_entries() -> None:
    chosen = select(torch.rand(TOKENS, FEATURES, generator=torch.Generator().manual_seed(2)), 3, "topk")
    by_feature = chosen.by_feature(FEATURES)
    assert chosen.feature[by_feature.order].equal(chosen.feature.sort().values)
    assert by_feature.token.equal(chosen.token[by_feature.order])
    counts = torch.bincount(chosen.feature, minlength=FEATURES)
    assert by_feature.offsets.tolist() == (counts.cumsum(0) - counts).tolist()
