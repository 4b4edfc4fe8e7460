"""Feature cards: where a feature is active, on which prompts, and which tokens it speaks for.

The only part of the viewer that runs the model; it is kept out of the package's door, so that a report of a run
whose cards are known loads without torch.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hagd.graphs.nodes import Node
from hagd.interventions.activations import Activations, Subject, record
from hagd.models.attention import project_heads
from hagd.models.language_model import LanguageModel
from hagd.tasks.task import PromptBatch, Task

_CHUNK: Final = 64


@dataclass
class _Evidence:
    """What has been seen of one feature so far."""

    prompts: int = 0
    active: int = 0
    total: float = 0.0
    examples: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


@torch.no_grad()
def feature_cards(
    subject: Subject,
    task: Task,
    leaves: Iterable[Node],
    *,
    n_examples: int = 6,
    n_logits: int = 8,
    most_prompts: int = 512,
) -> dict[str, dict[str, Any]]:
    """Give a card, as `RunView.cards` takes it, for every feature among `leaves` whose layer has a dictionary.

    Examples are the D_discover prompts with the largest |activation| at the node's role. Logits are the direct
    effect of the feature's mean activation, in logits: `a · d` through the final norm, its denominator frozen at the
    mean over prompts, demeaned over the vocabulary; only tokens that the task knows as text are named.
    """
    by_layer: dict[int, list[Node]] = defaultdict(list)
    for leaf in dict.fromkeys(leaves):
        if leaf.kind == "feature" and leaf.layer in subject.dictionaries:
            by_layer[leaf.layer].append(leaf)
    if not by_layer:
        return {}
    needed = Subject(subject.model, {layer: subject.dictionaries[layer] for layer in by_layer})
    seen: dict[Node, _Evidence] = defaultdict(_Evidence)
    scales: list[Tensor] = []
    for batch in itertools.islice(_chunks(task), max(1, most_prompts // _CHUNK)):
        run = record(needed, batch.clean, batch.layout.answer_positions)
        scales.append(_final_scale(subject.model, run, batch.layout.answer_positions))
        for layer, nodes in by_layer.items():
            _observe(seen, nodes, run.features[layer], batch, run.logits, task.token_text, n_examples)
    scale = torch.cat(scales).mean()
    cards: dict[str, dict[str, Any]] = {}
    for layer, nodes in by_layer.items():
        effects, tokens = _direct_effects(subject, layer, nodes, task, scale)
        for node, effect in zip(nodes, effects, strict=True):
            cards[str(node)] = _card(seen[node], effect, tokens, task.token_text, n_logits)
    return cards


def _chunks(task: Task) -> Iterator[PromptBatch]:
    """Cut D_discover into small batches, taken from every layout in turn."""
    cut = [
        [batch.take(torch.arange(start, min(start + _CHUNK, len(batch)))) for start in range(0, len(batch), _CHUNK)]
        for batch in task.batches.get("discover", ())
    ]
    for turn in itertools.zip_longest(*cut):
        yield from (batch for batch in turn if batch is not None)


def _final_scale(model: LanguageModel, run: Activations, positions: Sequence[int]) -> Float[Tensor, " batch_answer"]:
    """Give the final norm's 1 / denominator at the answer positions."""
    resid = run.embed + model.position_part(run.embed.shape[1])
    for block, heads, out in zip(model.blocks, run.heads, run.mlp_out, strict=True):
        resid = resid + project_heads(block.attention, heads) + out
    return model.norm_final.scale(resid[:, list(positions)]).flatten()


def _observe(
    seen: dict[Node, _Evidence],
    nodes: Sequence[Node],
    features: Float[Tensor, "batch pos d_feature"],
    batch: PromptBatch,
    logits: Float[Tensor, "batch answer vocab"],
    text: Mapping[int, str],
    n_examples: int,
) -> None:
    """Count where each node is active in this batch, and keep its strongest examples."""
    activations = features[:, :, [node.index for node in nodes]]
    predictions = logits[:, 0].argmax(-1).tolist()
    for column, node in enumerate(nodes):
        if node.role not in batch.layout.roles:
            continue
        position = batch.layout.roles.index(node.role)
        values = activations[:, position, column]
        evidence = seen[node]
        evidence.prompts += len(batch)
        evidence.active += int((values != 0).sum())
        evidence.total += float(values.sum())
        for row in values.abs().topk(min(n_examples, len(batch))).indices.tolist():
            if values[row] != 0:
                strip = activations[row, :, column]
                evidence.examples.append(_example(batch.clean[row], strip, position, predictions[row], text))
        evidence.examples.sort(key=lambda example: -abs(example["activations"][example["position"]]))
        del evidence.examples[n_examples:]


def _example(
    tokens: Int[Tensor, " pos"], strip: Float[Tensor, " pos"], position: int, prediction: int, text: Mapping[int, str]
) -> dict[str, Any]:
    return {
        "tokens": [text.get(token, f"#{token}") for token in tokens.tolist()],
        "activations": [round(value, 4) for value in strip.tolist()],
        "position": position,
        "prediction": text.get(prediction, f"#{prediction}"),
    }


def _direct_effects(
    subject: Subject, layer: int, nodes: Sequence[Node], task: Task, scale: Float[Tensor, ""]
) -> tuple[Float[Tensor, "node token"], list[int]]:
    """Give what one unit of each feature adds to the demeaned logits of the task's tokens."""
    model = subject.model
    directions = subject.dictionaries[layer].w_dec[[node.index for node in nodes]]
    if model.norm_final.kind == "layer":
        directions = directions - directions.mean(-1, keepdim=True)
    tokens = sorted(token for token in task.token_text if 0 <= token < model.unembed.shape[1])
    readout = model.unembed[:, tokens] - model.unembed.mean(-1, keepdim=True)
    return (directions * model.norm_final.gain * scale) @ readout, tokens


def _card(
    evidence: _Evidence, effect: Float[Tensor, " token"], tokens: list[int], text: Mapping[int, str], n_logits: int
) -> dict[str, Any]:
    mean = evidence.total / evidence.active if evidence.active else 0.0
    order = (effect * mean).sort(descending=True)
    names = [text[tokens[i]] for i in order.indices.tolist()]
    ranked = [(name, round(value, 4)) for name, value in zip(names, order.values.tolist(), strict=True)]
    promoted = [(name, value) for name, value in ranked[:n_logits] if value > 0]
    return {
        "label": "promotes " + ", ".join(name.strip() for name, _ in promoted[:3]) if promoted else "",
        "frequency": evidence.active / evidence.prompts if evidence.prompts else 0.0,
        "examples": evidence.examples,
        "promoted": promoted,
        "suppressed": [(name, value) for name, value in ranked[: -n_logits - 1 : -1] if value < 0],
    }
