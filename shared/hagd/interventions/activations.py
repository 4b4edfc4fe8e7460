"""Run a model plainly and keep what interventions replace: the output of every node of the universe.

The universe is that of the verification headline: token embeddings by position, head outputs by
(layer, head, query position), MLP features or whole blocks by (layer, position), MLP errors and skip paths.
Position embeddings belong to no node.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hagd.dictionaries.dictionary import Dictionary
from hagd.models.attention import attend, project_heads
from hagd.models.language_model import LanguageModel

Transform = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Subject:
    """What is explained: a model, and the dictionaries of the layers that have one."""

    model: LanguageModel
    dictionaries: Mapping[int, Dictionary] = field(default_factory=dict[int, Dictionary])


@dataclass(frozen=True)
class Activations:
    """Node outputs of one run. A leading axis of size 1 stands for one value shared by all prompts."""

    embed: Float[Tensor, "batch pos d_model"]
    heads: tuple[Float[Tensor, "batch pos head d_head"], ...]
    """Per layer: head outputs before `w_o`."""
    attention_out: tuple[Float[Tensor, "batch pos d_model"], ...]
    """Per layer: what all heads together write, output bias included."""
    patterns: tuple[Float[Tensor, "batch head pos pos"], ...]
    """Per layer: attention probabilities; empty where they were not asked for."""
    mlp_in: tuple[Float[Tensor, "batch pos d_model"], ...]
    """Per layer: the normalised residual that the MLP reads; empty where not asked for."""
    mlp_out: tuple[Float[Tensor, "batch pos d_model"], ...]
    features: Mapping[int, Float[Tensor, "batch pos d_feature"]]
    errors: Mapping[int, Float[Tensor, "batch pos d_model"]]
    skips: Mapping[int, Float[Tensor, "batch pos d_model"]]
    logits: Float[Tensor, "batch answer vocab"]

    def map(self, transform: Transform) -> "Activations":
        """Apply one tensor function to every field."""
        return Activations(
            embed=transform(self.embed),
            heads=tuple(map(transform, self.heads)),
            attention_out=tuple(map(transform, self.attention_out)),
            patterns=tuple(map(transform, self.patterns)),
            mlp_in=tuple(map(transform, self.mlp_in)),
            mlp_out=tuple(map(transform, self.mlp_out)),
            features={layer: transform(value) for layer, value in self.features.items()},
            errors={layer: transform(value) for layer, value in self.errors.items()},
            skips={layer: transform(value) for layer, value in self.skips.items()},
            logits=transform(self.logits),
        )

    def take(self, index: Int[Tensor, " batch"]) -> "Activations":
        """Select prompts; used to pair every prompt with its donor."""
        return self.map(lambda value: value if value.shape[0] == 1 else value[index])

    def mean(self) -> "Activations":
        """Average over prompts (mean ablation); linear, so reconstruction plus error still sums up."""
        return replace(self.map(lambda value: value.mean(0, keepdim=True)), patterns=())

    def zero(self, subject: Subject) -> "Activations":
        """Set every node to zero (zero ablation); output and decoder biases stay, since they are no nodes."""
        zeroed = replace(self.map(lambda value: torch.zeros_like(value[:1])), patterns=())
        mlp_out = tuple(
            out + subject.dictionaries[layer].b_dec if layer in subject.dictionaries else out
            for layer, out in enumerate(zeroed.mlp_out)
        )
        biases = (block.attention.b_o for block in subject.model.blocks)
        attention_out = tuple(
            out if bias is None else out + bias for out, bias in zip(zeroed.attention_out, biases, strict=True)
        )
        return replace(zeroed, mlp_out=mlp_out, attention_out=attention_out)


@torch.no_grad()
def record(
    subject: Subject,
    tokens: Int[Tensor, "batch pos"],
    answer_positions: Sequence[int],
    *,
    keep_patterns: bool = False,
    keep_mlp_in: bool = False,
) -> Activations:
    """Run the model on `tokens` and keep every node's output, and the logits at `answer_positions`.

    The logits at position p predict the token at p + 1.
    """
    model = subject.model
    n_pos = tokens.shape[1]
    rotary = model.rotary(n_pos)
    everywhere = torch.arange(n_pos, device=tokens.device)
    embed = model.embed[tokens]
    resid = embed + model.position_part(n_pos)
    heads, attention_out, patterns, mlp_in, mlp_out = [], [], [], [], []
    features: dict[int, Tensor] = {}
    errors: dict[int, Tensor] = {}
    skips: dict[int, Tensor] = {}
    for layer, block in enumerate(model.blocks):
        z, pattern = attend(block.attention, block.norm_attention(resid), rotary, everywhere)
        attention_out.append(project_heads(block.attention, z))
        attended = resid + attention_out[-1]
        x = block.norm_mlp(model.mlp_reads(resid, attended))
        out = block.mlp(x)
        heads.append(z)
        mlp_out.append(out)
        patterns += [pattern] if keep_patterns else []
        mlp_in += [x] if keep_mlp_in else []
        if (dictionary := subject.dictionaries.get(layer)) is not None:
            features[layer] = dictionary.encode(x)
            errors[layer] = out - dictionary.decode(features[layer], x)
            if dictionary.w_skip is not None:
                skips[layer] = x @ dictionary.w_skip
        resid = attended + out
    logits = model.logits(resid[:, list(answer_positions)])
    return Activations(
        embed,
        tuple(heads),
        tuple(attention_out),
        tuple(patterns),
        tuple(mlp_in),
        tuple(mlp_out),
        features,
        errors,
        skips,
        logits,
    )
