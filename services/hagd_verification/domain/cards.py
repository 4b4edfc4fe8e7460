"""Cards for readers: when each node of the circuit is active, and which tokens it writes towards.

Taken on D_discover, never on the verification prompts. The tokens promoted and suppressed are those of the direct path:
what the node writes (the decoder row of a feature, the mean output of a head), through the final norm's gain and the
unembedding, centred over the tokens of the task.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hagd.graphs.circuit import CircuitNode
from hagd.graphs.nodes import Node
from hagd.interventions.activations import Activations, Subject, record
from hagd.models.language_model import LanguageModel
from hagd.tasks.task import PromptBatch, Task
from hagd_verification.domain.frontier import Frontier
from hagd_verification.domain.labels import label_of

EXAMPLES = 5
TOKENS = 8
"""Promoted and suppressed tokens per card."""
CONTEXT = 32
"""Positions shown around an example's own."""


@dataclass(frozen=True)
class Seen:
    """Discovery prompts of one layout with the model's run on them."""

    batch: PromptBatch
    run: Activations


@dataclass(frozen=True)
class Behaviour:
    """What a node did on the prompts of one layout: the strength that ranks examples, and what to shade."""

    seen: Seen
    position: int
    strength: Float[Tensor, " batch"]
    shading: Float[Tensor, "batch pos"]


def make_cards(frontier: Frontier, task: Task, most_prompts: int, most_cards: int) -> dict[str, Any]:
    """Give cards by node id, and by leaf for the parts of supernodes, at most `most_cards` in order of rank."""
    seen = _see(frontier.subject, task, most_prompts)
    reader = _Reader.of(frontier.subject, task)
    cards: dict[str, Any] = {}
    for name, node in _wanted(frontier.circuit.nodes):
        if len(cards) >= most_cards:
            break
        cards[name] = reader.card(node, seen)
    return cards


def _see(subject: Subject, task: Task, most: int) -> list[Seen]:
    batches = task.batches["discover"]
    share = -(-most // max(1, len(batches)))
    found: list[Seen] = []
    for batch in batches:
        some = batch.take(torch.arange(min(share, len(batch))))
        found.append(Seen(some, record(subject, some.clean, some.layout.answer_positions, keep_patterns=True)))
    return found


def _wanted(nodes: Sequence[CircuitNode]) -> Iterator[tuple[str, tuple[Node, ...]]]:
    """List what gets a card: features, supernodes and heads by rank, then the leaves of supernodes."""
    for node in nodes:
        if node.kind in {"feature", "supernode", "head"}:
            yield node.id, node.leaves
    for node in nodes:
        if node.kind == "supernode":
            for leaf in node.leaves:
                yield str(leaf), (leaf,)


@dataclass(frozen=True)
class _Reader:
    subject: Subject
    text: Mapping[int, str]
    tokens: Int[Tensor, " known"]
    """Tokens whose text is known."""
    unembed: Float[Tensor, "d_model known"]

    @staticmethod
    def of(subject: Subject, task: Task) -> "_Reader":
        tokens = torch.tensor(sorted(task.token_text), dtype=torch.int64)
        return _Reader(subject, task.token_text, tokens, subject.model.unembed[:, tokens])

    def card(self, leaves: tuple[Node, ...], seen: Sequence[Seen]) -> dict[str, Any]:
        behaviours = [found for entry in seen if (found := self._behaviour(leaves, entry)) is not None]
        strength = torch.cat([found.strength for found in behaviours]) if behaviours else torch.zeros(1)
        effect = self._effect(self._direction(leaves, behaviours))
        examples = self._examples(behaviours)
        return {
            "label": label_of(leaves[0].kind, effect, self.tokens, self.text, examples),
            "frequency": round(float((strength != 0).float().mean()), 4),
            "examples": examples,
            "promoted": self._top(effect),
            "suppressed": self._top(-effect, sign=-1),
        }

    def _behaviour(self, leaves: tuple[Node, ...], seen: Seen) -> Behaviour | None:
        leaf, roles = leaves[0], seen.batch.layout.roles
        if leaf.role not in roles:
            return None
        at = roles.index(leaf.role)
        if leaf.kind == "head":
            pattern = seen.run.patterns[leaf.layer][:, leaf.index, at]
            written = seen.run.heads[leaf.layer][:, at, leaf.index]
            out = written @ self.subject.model.blocks[leaf.layer].attention.w_o[leaf.index]
            return Behaviour(seen, at, out.norm(dim=-1), pattern)
        index = torch.tensor([part.index for part in leaves])
        values = seen.run.features[leaf.layer][..., index]
        if len(leaves) > 1:
            norms = self.subject.dictionaries[leaf.layer].w_dec[index].norm(dim=-1)
            values = values.abs() * norms
        shading = values.sum(-1)
        return Behaviour(seen, at, shading[:, at], shading)

    def _direction(self, leaves: tuple[Node, ...], behaviours: Sequence[Behaviour]) -> Float[Tensor, " d_model"]:
        """Give what the node writes: a decoder row, or a mean over prompts."""
        leaf = leaves[0]
        if leaf.kind == "feature" and len(leaves) == 1:
            return self.subject.dictionaries[leaf.layer].w_dec[leaf.index]
        total = torch.zeros(self.subject.model.config.d_model)
        for found in behaviours:
            run, at = found.seen.run, found.position
            if leaf.kind == "head":
                written = run.heads[leaf.layer][:, at, leaf.index].sum(0)
                total += written @ self.subject.model.blocks[leaf.layer].attention.w_o[leaf.index]
            else:
                index = torch.tensor([part.index for part in leaves])
                written = run.features[leaf.layer][:, at, index].sum(0)
                total += written @ self.subject.dictionaries[leaf.layer].w_dec[index]
        return total / max(1, sum(len(found.strength) for found in behaviours))

    def _effect(self, direction: Float[Tensor, " d_model"]) -> Float[Tensor, " known"]:
        effect = through_final_norm(self.subject.model, direction) @ self.unembed
        return effect - effect.mean()

    def _top(self, effect: Float[Tensor, " known"], sign: int = 1) -> list[list[Any]]:
        best = effect.topk(min(TOKENS, len(effect)))
        return [
            [self.text[int(self.tokens[i])], _rounded(sign * value)]
            for value, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            if value > 0
        ]

    def _examples(self, behaviours: Sequence[Behaviour]) -> list[dict[str, Any]]:
        ranked = [
            (value, found, row)
            for found in behaviours
            for value, row in zip(*_strongest(found.strength), strict=True)
            if value > 0
        ]
        ranked.sort(key=lambda entry: -entry[0])
        return [self._example(found, row) for _, found, row in ranked[:EXAMPLES]]

    def _example(self, found: Behaviour, row: int) -> dict[str, Any]:
        tokens = found.seen.batch.clean[row].tolist()
        start = max(0, min(found.position - CONTEXT // 2, len(tokens) - CONTEXT))
        shown = slice(start, start + CONTEXT)
        chosen = int(found.seen.run.logits[row, -1].argmax())
        return {
            "tokens": [self.text.get(token, f"<{token}>") for token in tokens[shown]],
            "activations": [_rounded(value) for value in found.shading[row, shown].tolist()],
            "position": found.position - start,
            "prediction": self.text.get(chosen, f"<{chosen}>"),
        }


def _strongest(strength: Float[Tensor, " batch"]) -> tuple[list[float], list[int]]:
    best = strength.abs().topk(min(EXAMPLES, len(strength)))
    return best.values.tolist(), best.indices.tolist()


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def through_final_norm(model: LanguageModel, direction: Float[Tensor, " d_model"]) -> Float[Tensor, " d_model"]:
    """Give a direction as the unembedding reads it, up to the norm's denominator."""
    centred = direction - direction.mean() if model.norm_final.kind == "layer" else direction
    return centred * model.norm_final.gain
