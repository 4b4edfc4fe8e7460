"""What a dictionary writes, as one operation, against autograd through the dictionary and finite differences."""

import pytest
import torch
from torch.autograd import gradcheck

from hagd_transcoder.domain.sparse.rebuilding import rebuild
from hagd_transcoder.domain.sparse.step import Encoder
from unit.hagd_transcoder.test_sparse_step import batch, dense, weights

KINDS = pytest.mark.parametrize(("activation", "gated"), [("relu", False), ("gelu", False), ("silu", True)])


@KINDS
@pytest.mark.parametrize("skip", [False, True])
def test_it_writes_and_differentiates_as_the_dictionary_does(activation: str, gated: bool, skip: bool) -> None:
    found, (x, upstream) = weights(gated, skip, torch.float64), batch(torch.float64)
    leaves = [x.requires_grad_(), *(tensor.requires_grad_() for tensor in found.values())]
    written = rebuild(found, x, Encoder(activation, k=7))
    dictionary = dense(found, activation, 7)
    expected = dictionary.decode(dictionary.encode(x), x)
    assert torch.allclose(written, expected, rtol=0, atol=1e-12)
    gradients = torch.autograd.grad(written, leaves, upstream)
    for gradient, wanted in zip(gradients, torch.autograd.grad(expected, leaves, upstream), strict=True):
        assert torch.allclose(gradient, wanted, rtol=0, atol=1e-11)


@KINDS
def test_where_tokens_compete_gradients_are_those_of_finite_differences(activation: str, gated: bool) -> None:
    found, (x, _) = weights(gated, True, torch.float64), batch(torch.float64)
    names = list(found)

    def write(x: torch.Tensor, *tensors: torch.Tensor) -> torch.Tensor:
        return rebuild(dict(zip(names, tensors, strict=True)), x, Encoder(activation, k=7, rule="batch-topk"))

    leaves = [x[:5].clone().requires_grad_(), *(tensor.requires_grad_() for tensor in found.values())]
    assert gradcheck(write, leaves, fast_mode=True)
