"""A slow, independent account of circuits: forward hooks on the Hugging Face module and the definition, node by node.

It shares no arithmetic with the engine. Head outputs are sliced before the output projection, MLP outputs are
put together feature by feature from the printed equation, and dictionaries are encoded with a full sort.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hagd.dictionaries.dictionary import Dictionary
from hagd.interventions.gates import Gates


@dataclass
class HookedRun:
    """What one run of the module passed through its hooks, layer by layer."""

    embed: Tensor | None = None
    heads: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    mlp_in: list[Tensor] = field(default_factory=list)
    mlp_out: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class Parts:
    """The places in a Hugging Face module where nodes write."""

    embed: torch.nn.Module
    fused_or_value: list[torch.nn.Module]
    projections: list[torch.nn.Module]
    mlps: list[torch.nn.Module]
    n_heads: int
    n_kv_heads: int

    @staticmethod
    def of(module) -> "Parts":
        config = module.config
        if config.model_type == "gpt2":
            blocks = module.transformer.h
            attention = [block.attn for block in blocks]
            return Parts(
                module.transformer.wte,
                [a.c_attn for a in attention],
                [a.c_proj for a in attention],
                [block.mlp for block in blocks],
                config.n_head,
                config.n_head,
            )
        if config.model_type == "gpt_neox":
            blocks = module.gpt_neox.layers
            attention = [block.attention for block in blocks]
            return Parts(
                module.gpt_neox.embed_in,
                [a.query_key_value for a in attention],
                [a.dense for a in attention],
                [block.mlp for block in blocks],
                config.num_attention_heads,
                config.num_attention_heads,
            )
        blocks = module.model.layers
        attention = [block.self_attn for block in blocks]
        return Parts(
            module.model.embed_tokens,
            [a.v_proj for a in attention],
            [a.o_proj for a in attention],
            [block.mlp for block in blocks],
            config.num_attention_heads,
            config.num_key_value_heads,
        )


@contextmanager
def hooks(parts: Parts, on_embed, on_value, on_heads, on_mlp) -> Iterator[None]:
    """Let four functions see, and replace if they return something, what the module computes."""
    handles = [parts.embed.register_forward_hook(lambda _m, _i, out: on_embed(out))]
    for layer in range(len(parts.mlps)):
        handles += [
            parts.fused_or_value[layer].register_forward_hook(lambda _m, _i, out, at=layer: on_value(at, out)),
            parts.projections[layer].register_forward_pre_hook(lambda _m, args, at=layer: on_heads(at, args[0])),
            parts.mlps[layer].register_forward_hook(lambda _m, args, out, at=layer: on_mlp(at, args[0], out)),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def split(flat: Tensor, n_heads: int) -> Tensor:
    return flat.unflatten(-1, (n_heads, -1))


@torch.no_grad()
def hooked_record(module, tokens: Tensor) -> HookedRun:
    """Run the module and keep what every node wrote."""
    parts, run = Parts.of(module), HookedRun()

    def keep_embed(out) -> None:
        run.embed = out

    def keep_mlp(layer, x, out) -> None:
        run.mlp_in.append(x)
        run.mlp_out.append(out)

    with hooks(
        parts,
        keep_embed,
        lambda _layer, _out: None,
        lambda _layer, flat: run.heads.append(split(flat, parts.n_heads)),
        keep_mlp,
    ):
        module(tokens)
    return run


ACTIVATIONS = {
    "relu": torch.relu,
    "gelu": lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5)),
    "silu": lambda x: x * x.sigmoid(),
    "gelu_new": lambda x: 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))),
}


def encode(dictionary: Dictionary, x: Tensor) -> Tensor:
    """Encode one token at a time, with a full sort instead of TopK."""
    act = ACTIVATIONS[dictionary.activation]
    rows = []
    for row in x.reshape(-1, x.shape[-1]):
        up = row @ dictionary.w_enc + dictionary.b_enc
        if dictionary.w_gate is None:
            features = act(up)
        else:
            gate = row @ dictionary.w_gate
            features = act(gate if dictionary.b_gate is None else gate + dictionary.b_gate) * up
        if dictionary.k is not None:
            size = features.abs() * dictionary.w_dec.square().sum(1).sqrt()
            for loser in size.sort(descending=True).indices[dictionary.k :].tolist():
                features[loser] = 0
        rows.append(features)
    return torch.stack(rows).reshape(*x.shape[:-1], -1)


def skip_of(dictionary: Dictionary, x: Tensor) -> Tensor:
    return torch.zeros_like(x) if dictionary.w_skip is None else x @ dictionary.w_skip


def refined_output(dictionary, x, exact, donor_x, donor_exact, gates, errors) -> Tensor:
    """Give a refined MLP's output at one position: sum_C f d + sum_notC f' d + b + skip + error."""
    live, donor = encode(dictionary, x), encode(dictionary, donor_x)
    live_error = exact - (live @ dictionary.w_dec + dictionary.b_dec + skip_of(dictionary, x))
    donor_error = donor_exact - (donor @ dictionary.w_dec + dictionary.b_dec + skip_of(dictionary, donor_x))
    feature_gates, error_gate, skip_gate = gates
    out = dictionary.b_dec.expand_as(exact).clone()
    for feature in range(dictionary.n_features):
        g = feature_gates[feature]
        out = out + (g * live[:, feature] + (1 - g) * donor[:, feature])[:, None] * dictionary.w_dec[feature]
    out = out + skip_gate * skip_of(dictionary, x) + (1 - skip_gate) * skip_of(dictionary, donor_x)
    if errors == "live":
        error_gate = 1.0
    outside = torch.zeros_like(donor_error) if errors == "zero" else donor_error
    return out + error_gate * live_error + (1 - error_gate) * outside


@torch.no_grad()
def hooked_circuit(
    module, dictionaries, tokens: Tensor, donor: HookedRun, gates: Gates, *, errors="corrupted", patterns=None
) -> Tensor:
    """Run the circuit by replacing, in the module, what every node outside it writes. Gives logits everywhere."""
    parts = Parts.of(module)
    group = parts.n_heads // parts.n_kv_heads
    run = HookedRun()

    def mix_embed(out) -> Tensor:
        mixed = donor.embed.clone()
        for pos in range(tokens.shape[1]):
            g = gates.tokens[pos]
            mixed[:, pos] = g * out[:, pos] + (1 - g) * donor.embed[:, pos]
        return mixed

    def keep_values(_layer, out) -> None:
        match module.config.model_type:
            case "gpt2":
                run.values.append(out[..., -out.shape[-1] // 3 :])
            case "gpt_neox":
                run.values.append(split(out, parts.n_heads).chunk(3, dim=-1)[2].flatten(-2))
            case _:
                run.values.append(out)

    def mix_heads(layer, flat) -> tuple[Tensor]:
        live = split(flat, parts.n_heads).clone()
        mixed = live.clone()
        for pos in range(tokens.shape[1]):
            for head in range(parts.n_heads):
                here = live[:, pos, head]
                if patterns is not None:
                    value = split(run.values[layer], parts.n_kv_heads)[:, :, head // group]
                    here = (patterns[layer][:, head, pos, :, None] * value).sum(1)
                g = gates.heads[layer, pos, head]
                mixed[:, pos, head] = g * here + (1 - g) * donor.heads[layer][:, pos, head]
        return (mixed.flatten(-2),)

    def mix_mlp(layer, x, out) -> Tensor:
        mixed = out.clone()
        for pos in range(tokens.shape[1]):
            donor_out = donor.mlp_out[layer][:, pos]
            dead = donor_out
            if gates.refined[layer, pos]:
                dead = refined_output(
                    dictionaries[layer],
                    x[:, pos],
                    out[:, pos],
                    donor.mlp_in[layer][:, pos],
                    donor_out,
                    (gates.features[layer][pos], gates.errors[layer, pos], gates.skips[layer, pos]),
                    errors,
                )
            g = gates.mlps[layer, pos]
            mixed[:, pos] = g * out[:, pos] + (1 - g) * dead
        return mixed

    with hooks(parts, mix_embed, keep_values, mix_heads, mix_mlp):
        return module(tokens).logits
