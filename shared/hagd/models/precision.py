"""Which products are fast on which device."""

from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def multiplies_bfloat16(device: torch.device) -> bool:
    """Say whether a device has instructions for products of bfloat16; without them they take fifty times longer."""
    if device.type != "cpu":
        return True
    # torch has no public question for this.
    cpu: Any = torch.cpu
    return cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported()


def multiply(left: Float[Tensor, "*row inner"], right: Float[Tensor, "inner column"]) -> Float[Tensor, "*row column"]:
    """Give `left @ right`, in the same precision, by the faster of two libraries that torch holds.

    For float32 on a processor torch asks MKL, which leaves instructions for 512 bits unused that processors of other
    makers have: oneDNN takes half of its time there. It gives no gradients, so it is not asked where they are
    wanted; and it is fifty times slower where the matrix on the right is a part of a wider one.
    """
    learns = torch.is_grad_enabled() and (left.requires_grad or right.requires_grad)
    dense = right.is_contiguous() or right.T.is_contiguous()
    if left.dtype == torch.float32 and left.device.type == "cpu" and dense and not learns and _has_512_bits():
        # What torch's own compiler calls for a linear layer; there is no other way to ask for it.
        return torch.ops.mkldnn._linear_pointwise(left, right.T, None, "none", [], "")
    return left @ right


@cache
def _has_512_bits() -> bool:
    cpu: Any = torch.cpu
    return cpu._is_avx512_supported() and torch.backends.mkldnn.is_available()
