"""The joint step of a transcoder across layers, on lists or whole matrices, against autograd through the transcoder."""

from typing import Any

import pytest
import torch
from torch import Tensor

from hagd.dictionaries.cross_layer import CrossLayerTranscoder
from hagd_transcoder.domain.sparse.dense import dense_code
from hagd_transcoder.domain.sparse.joint import joint_steps
from hagd_transcoder.domain.sparse.step import Encoder, StepResult, sparse_code

LAYERS, TOKENS, WIDTH, FEATURES, K = 3, 31, 7, 23, 5
VARIANCE = 3.0


def drawn(*, tied: bool, skip: bool) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(5)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    found: list[dict[str, Tensor]] = []
    for layer in range(LAYERS):
        blocks = 1 if tied else LAYERS - layer
        weights = {"enc": draw(FEATURES, WIDTH), "b_enc": draw(FEATURES), "dec": draw(FEATURES, blocks * WIDTH)}
        found.append(weights | {"b_dec": draw(WIDTH)} | ({"skip": draw(WIDTH, WIDTH)} if skip else {}))
    return found


def sides() -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(6)
    x, out = torch.randn(2, LAYERS, TOKENS, WIDTH, generator=generator, dtype=torch.float64)
    return list(x), list(out)


def by_autograd(
    weights: list[dict[str, Tensor]], x: list[Tensor], out: list[Tensor], *, tied: bool
) -> tuple[list[float], list[dict[str, Tensor]], list[Tensor]]:
    """Give losses, gradients and errors of a dense transcoder whose score is activation times norm."""
    leaves = [{name: it.clone().requires_grad_() for name, it in own.items()} for own in weights]
    blocks = [
        own["dec"].expand(LAYERS - layer, -1, -1) if tied else torch.stack(own["dec"].split(WIDTH, dim=1))
        for layer, own in enumerate(leaves)
    ]
    clt = CrossLayerTranscoder(
        "relu",
        tuple(own["enc"].T for own in leaves),
        tuple(own["b_enc"] for own in leaves),
        tuple(blocks),
        tuple(own["b_dec"] for own in leaves),
        tuple(own["skip"] for own in leaves) if "skip" in weights[0] else None,
    )
    features: list[Tensor] = []
    for layer, own in enumerate(leaves):
        dense = clt.encode(layer, x[layer])
        scores = dense.detach() * own["dec"].detach().norm(dim=1)
        kept = torch.zeros_like(scores).scatter(1, scores.topk(K, dim=1).indices, 1.0)
        features.append(dense * kept)
    errors = [out[layer] - clt.decode(layer, features, x[layer]) for layer in range(LAYERS)]
    losses = [error.square().sum(-1).mean() / VARIANCE for error in errors]
    flat = [tensor for own in leaves for tensor in own.values()]
    gradients = iter(torch.autograd.grad(torch.stack(losses).sum(), flat))
    found = [{name: next(gradients) for name in own} for own in leaves]
    return [float(loss.detach()) for loss in losses], found, [error.detach() for error in errors]


@pytest.mark.parametrize("code", [sparse_code, dense_code])
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_losses_and_gradients_are_those_of_autograd(code: Any, skip: bool, tied: bool) -> None:
    weights, (x, out) = drawn(tied=tied, skip=skip), sides()
    codes = [code(own, read, Encoder("relu", K), None) for own, read in zip(weights, x, strict=True)]
    steps = joint_steps(codes, weights, x, out, VARIANCE, tied=tied)
    losses, wanted, errors = by_autograd(weights, x, out, tied=tied)
    for layer, step in enumerate(steps):
        assert step.loss == pytest.approx(losses[layer], rel=1e-12)
        assert set(step.gradients) == set(wanted[layer])
        for name, gradient in wanted[layer].items():
            assert float((step.gradients[name] - gradient).norm() / gradient.norm()) <= 1e-12, (layer, name)
        left = torch.stack(errors[layer:])
        torch.testing.assert_close(step.error, left.mean(0) if tied else torch.cat(list(left), dim=1))


def test_a_layer_that_nothing_below_writes_to_takes_the_step_of_one_alone() -> None:
    weights, (x, out) = drawn(tied=False, skip=True), sides()
    for own in weights[:-1]:
        own["dec"] = own["dec"].clone()
        own["dec"][:, WIDTH:] = 0

    def steps(first: int) -> list[StepResult]:
        encoder, shown = Encoder("relu", K), slice(first, None)
        codes = [sparse_code(own, read, encoder, None) for own, read in zip(weights[shown], x[shown], strict=True)]
        return joint_steps(codes, weights[shown], x[shown], out[shown], VARIANCE, tied=False)

    together, (alone,) = steps(0), steps(LAYERS - 1)
    assert together[-1].loss == pytest.approx(alone.loss)
    for name, gradient in alone.gradients.items():
        torch.testing.assert_close(together[-1].gradients[name], gradient)
    # What is below still learns from the error above.
    assert float(together[0].gradients["dec"][:, WIDTH:].abs().max()) > 0
