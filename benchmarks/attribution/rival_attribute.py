"""Build graphs with circuit-tracer from the files of a subject, and prune them. Runs in its environment.

Answers one line of JSON: seconds of each batch size, of pruning, and the largest resident memory. Writes the graph of
the last batch size for comparison.
"""

import argparse
import json
import time
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from circuit_tracer.attribution.attribute import attribute  # pyright: ignore[reportMissingImports]
from circuit_tracer.graph import prune_graph  # pyright: ignore[reportMissingImports]
from circuit_tracer.replacement_model.replacement_model_transformerlens import (  # pyright: ignore[reportMissingImports]
    TransformerLensReplacementModel,
)
from circuit_tracer.transcoder import SingleLayerTranscoder, TranscoderSet  # pyright: ignore[reportMissingImports]
from safetensors.torch import load_file, save_file
from transformer_lens import HookedTransformerConfig  # pyright: ignore[reportMissingImports]
from transformer_lens.pretrained.weight_conversions import (  # pyright: ignore[reportMissingImports]
    convert_llama_weights,
)
from transformers import LlamaConfig, LlamaForCausalLM


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--batches", type=int, nargs="+", required=True)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--prune", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    model, tokens = load(asked.folder)
    graph: Any = attribute(tokens, model, batch_size=asked.batches[0])
    # Of one graph: later ones are made while the one before is still there.
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    memory = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    seconds: dict[int, float] = {}
    for batch in asked.batches:
        for _ in range(asked.repeats):
            begun = time.perf_counter()
            graph = attribute(tokens, model, batch_size=batch)
            seconds[batch] = min(seconds.get(batch, float("inf")), time.perf_counter() - begun)
    answer: dict[str, Any] = {"seconds": seconds, "memory_bytes": memory}
    found = {
        "adjacency": graph.adjacency_matrix.contiguous(),
        "features": graph.active_features[graph.selected_features].contiguous(),
        "probabilities": graph.logit_probabilities.float(),
        "logits": torch.tensor([it.vocab_idx for it in graph.logit_targets]),
    }
    if asked.prune:
        begun = time.perf_counter()
        pruned = prune_graph(graph)
        answer["prune_seconds"] = time.perf_counter() - begun
        found |= {"nodes": pruned.node_mask, "edges": pruned.edge_mask.contiguous()}
    save_file(found, asked.folder / "rival.safetensors")
    print(json.dumps(answer))


def load(folder: Path) -> tuple[Any, torch.Tensor]:
    """Give the model with its dictionaries, and the prompt."""
    shape = json.loads((folder / "config.json").read_text())
    module = LlamaForCausalLM(LlamaConfig(**shape))
    module.load_state_dict(load_file(folder / "model.safetensors"))
    config = HookedTransformerConfig(
        n_layers=shape["num_hidden_layers"],
        d_model=shape["hidden_size"],
        n_ctx=shape["max_position_embeddings"],
        d_head=shape["head_dim"],
        n_heads=shape["num_attention_heads"],
        n_key_value_heads=shape["num_key_value_heads"],
        d_mlp=shape["intermediate_size"],
        d_vocab=shape["vocab_size"],
        act_fn="silu",
        gated_mlp=True,
        normalization_type="RMS",
        final_rms=True,
        eps=shape["rms_norm_eps"],
        positional_embedding_type="rotary",
        rotary_dim=shape["head_dim"],
        rotary_base=shape["rope_theta"],
        rotary_adjacent_pairs=False,
        original_architecture="LlamaForCausalLM",
        model_name="llama",
        device="cpu",
        dtype=torch.float32,
    )
    parts = load_file(folder / "dictionaries.safetensors")
    transcoders: dict[int, SingleLayerTranscoder] = {}
    for layer in range(config.n_layers):
        w_enc = parts[f"{layer}.w_enc"]
        made = SingleLayerTranscoder(
            config.d_model, w_enc.shape[1], torch.relu, layer, device=torch.device("cpu"), dtype=torch.float32
        )
        made.W_enc.data, made.b_enc.data = w_enc.T.contiguous(), parts[f"{layer}.b_enc"]
        made.W_dec.data, made.b_dec.data = parts[f"{layer}.w_dec"], parts[f"{layer}.b_dec"]
        transcoders[layer] = made
    model = TransformerLensReplacementModel.from_config(
        config, TranscoderSet(transcoders, "mlp.hook_in", "mlp.hook_out", scan="benchmark")
    )
    model.load_state_dict(_renamed(convert_llama_weights(module, config)), strict=False)
    model.tokenizer = SimpleNamespace(
        decode=str, all_special_ids=[0], padding_side="right", pad_token_id=None, vocab_size=config.d_vocab
    )
    return model, parts["tokens"]


def _renamed(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Give the weights the names they have inside the replacement model's wrappers."""
    wrapped = {name.replace(".mlp.", ".mlp.old_mlp.", 1): value for name, value in weights.items()}
    return {name.replace("unembed.", "unembed.old_unembed.", 1): value for name, value in wrapped.items()}


if __name__ == "__main__":
    main()
