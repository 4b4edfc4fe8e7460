"""The affine map from sums is the one of a solver that sees all tokens at once."""

import numpy as np
import torch

from hagd.dictionaries.least_squares import LeastSquares
from hagd.dictionaries.metrics import fraction_unexplained


def test_an_affine_map_is_found_even_from_collinear_inputs() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(101, 5, generator=draw)
    x = torch.cat([x, x[:, :2]], dim=1)
    weight, bias = torch.randn(7, 3, generator=draw), torch.randn(3, generator=draw)
    out = x @ weight + bias
    fit = LeastSquares.empty(7, 3)
    fit.add(x, out)
    found, shift = fit.solve()
    assert found.dtype == torch.float64
    assert fraction_unexplained(out.double(), x.double() @ found + shift) < 1e-9


def test_batches_give_what_numpy_gives_for_all_tokens() -> None:
    draw = torch.Generator().manual_seed(1)
    x, out = 3 + torch.randn(211, 5, generator=draw), torch.randn(211, 3, generator=draw) - 7
    fit = LeastSquares.empty(5, 3)
    for part in torch.arange(211).split(50):
        fit.add(x[part], out[part])
    weight, bias = fit.solve()
    design = np.hstack([x.double().numpy(), np.ones((211, 1))])
    expected = np.linalg.lstsq(design, out.double().numpy(), rcond=None)[0]
    np.testing.assert_allclose(weight.numpy(), expected[:5], atol=1e-5)
    np.testing.assert_allclose(bias.numpy(), expected[5], atol=1e-4)
