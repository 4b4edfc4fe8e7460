"""Where products in half precision pay."""

from typing import Any

import torch


def multiplies_bfloat16(device: torch.device) -> bool:
    """Say whether a device has instructions for products of bfloat16; without them they take fifty times longer."""
    if device.type != "cpu":
        return True
    # torch has no public question for this.
    cpu: Any = torch.cpu
    return cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported()
