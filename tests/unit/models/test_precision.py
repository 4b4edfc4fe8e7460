"""Products are the same whichever library takes them."""

import pytest
import torch

from hagd.models import precision
from hagd.models.precision import multiply


@pytest.mark.parametrize("shape", [(3, 7), (5, 3, 7), (0, 7), (1, 7)])
@pytest.mark.parametrize("faster", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_products_are_those_of_torch(
    shape: tuple[int, ...], faster: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_has_512_bits", lambda: faster)
    draw = torch.Generator().manual_seed(0)
    left, right = torch.randn(*shape, generator=draw).to(dtype), torch.randn(11, 7, generator=draw).to(dtype).T
    wide = torch.randn(*shape[:-1], 13, generator=draw).to(dtype)
    for each in (left, wide[..., 2:9]):
        found = multiply(each, right)
        assert found.shape == (*shape[:-1], 11)
        torch.testing.assert_close(found, each @ right)
        torch.testing.assert_close(multiply(each, right.contiguous()), each @ right)
