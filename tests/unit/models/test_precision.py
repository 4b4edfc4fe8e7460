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


def test_parts_of_wider_matrices_and_what_learns_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_has_512_bits", lambda: True)
    asked: list[torch.Tensor] = []
    faster = torch.ops.mkldnn._linear_pointwise

    def counted(left: torch.Tensor, right: torch.Tensor, *rest: object) -> torch.Tensor:
        asked.append(right)
        return faster(left, right, *rest)

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", counted)
    draw = torch.Generator().manual_seed(0)
    left, wide = torch.randn(3, 7, generator=draw), torch.randn(7, 13, generator=draw)
    torch.testing.assert_close(multiply(left, wide[:, 2:9]), left @ wide[:, 2:9])
    assert not asked
    learning = wide.clone().requires_grad_()
    multiply(left, learning).sum().backward()
    assert not asked
    torch.testing.assert_close(learning.grad, left.sum(0)[:, None].expand_as(wide))
    with torch.no_grad():
        torch.testing.assert_close(multiply(left, learning), left @ wide)
    assert len(asked) == 1
