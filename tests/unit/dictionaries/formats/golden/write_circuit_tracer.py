"""Write transcoders with circuit-tracer, and what that package computes with them. Run by hand; see README.md.

The package writes weights alone; the config is what its own cache writes beside them.
"""

from pathlib import Path

import torch
import yaml
from circuit_tracer.transcoder.activation_functions import JumpReLU
from circuit_tracer.transcoder.single_layer_transcoder import SingleLayerTranscoder, TranscoderSet
from safetensors.torch import save_file

HERE = Path(__file__).parent / "circuit-tracer"
HOOKS = {"feature_input_hook": "mlp.hook_in", "feature_output_hook": "hook_mlp_out"}

draw = torch.Generator().manual_seed(0)
layers = {}
with torch.no_grad():
    for layer in range(2):
        jumps = JumpReLU(torch.rand(16, generator=draw), 0.1)
        one = SingleLayerTranscoder(8, 16, jumps, layer, True, device=torch.device("cpu"), dtype=torch.float32)
        for name in ("W_enc", "W_dec", "b_enc", "b_dec", "W_skip"):
            weight = getattr(one, name)
            weight.copy_(torch.randn(weight.shape, generator=draw))
        layers[layer] = one
    TranscoderSet(layers, scan="tiny", **HOOKS).to_safetensors(str(HERE))
    x = torch.randn(2, 5, 8, generator=draw)
    acts = torch.stack([layers[layer].encode(x[layer]) for layer in layers])
    out = torch.stack([layers[layer](x[layer]) for layer in layers])
(HERE / "config.yaml").write_text(yaml.dump({"model_name": "tiny", "model_kind": "transcoder_set", **HOOKS}))
save_file({"x": x, "out": out, "acts": acts}, HERE / "computed.safetensors")
