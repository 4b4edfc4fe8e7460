"""Write a transcoder with eai-sparsify, and what that package computes with it. Run by hand; see README.md."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from sparsify import SparseCoder, SparseCoderConfig

HERE = Path(__file__).parent / "sparsify"

draw = torch.Generator().manual_seed(0)
config = SparseCoderConfig(num_latents=16, k=3, transcode=True, skip_connection=True)
coder = SparseCoder(8, config)
with torch.no_grad():
    for parameter in coder.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=draw))
    coder.save_to_disk(HERE / "layers.1.mlp")
    x = torch.randn(5, 8, generator=draw)
    found = coder(x)
save_file(
    {"x": x, "out": found.sae_out, "acts": found.latent_acts, "features": found.latent_indices},
    HERE / "computed.safetensors",
)
