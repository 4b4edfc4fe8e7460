"""Run a circuit through its own edges only: every other edge carries the donor's value.

A node-level run lets each live node read the whole mixed residual. Here each reader has a residual of its own:
`donor residual + sum over sources s with an edge to it of (live_s - donor_s)`. Heads read it with query, keys and
values, blocks and features at their own position, the logits at the answer positions. Norms and softmax are live.
With all edges this equals `run_circuit`; with none it is the empty circuit. A supernode hears and writes as one, so
that the cost follows the number of nodes and not of the features they hide.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hagd.dictionaries.dictionary import Dictionary
from hagd.graphs.nodes import Node
from hagd.interventions.activations import Activations, Subject
from hagd.interventions.evaluation import Ablation, Outcome, Prepared, PreparedBatch, choose, divergence, metric
from hagd.models.language_model import ModelConfig, Rotary
from hagd.tasks.task import Layout

_FLOATS_AT_ONCE = 1 << 22
"""Elements of the largest intermediate tensor of one chunk of prompts; bounds memory, not results."""
_WRITES: dict[str, int] = {"token": 0, "head": 1}
"""When a node of some layer writes: 2 * layer + this; 2 for all parts of an MLP."""


@dataclass(frozen=True)
class EdgeCircuit:
    """Nodes and who reads whom. The last reader is the logit."""

    nodes: tuple[tuple[Node, ...], ...]
    """Each node by its leaves: one, or parts of one MLP at one role that hear the same and are heard as their sum."""
    reads: Bool[Tensor, "reader node"]
    """`reads[t, s]`: an edge runs from node s to node t, or to the logit for the last t."""


def admissible(
    nodes: Sequence[tuple[Node, ...]], layouts: Sequence[Layout], config: ModelConfig
) -> Bool[Tensor, "reader node"]:
    """Mark the pairs that an edge can join in any layout: the source has written where and when the reader reads."""
    leaves = [leaves[0] for leaves in nodes]
    written = torch.tensor([_written(leaf) for leaf in leaves])
    read = torch.tensor([_read(leaf, config) for leaf in leaves])
    found = torch.zeros(len(leaves) + 1, len(leaves), dtype=torch.bool)
    is_head = torch.tensor([leaf.kind == "head" for leaf in leaves])
    for layout in layouts:
        at = torch.tensor([layout.roles.index(leaf.role) if leaf.role in layout.roles else -1 for leaf in leaves])
        there = at >= 0
        visible = (at[None] == at[:, None]) | (is_head[:, None] & (at[None] <= at[:, None]))
        found[:-1] |= visible & (written[None] < read[:, None]) & there[None] & there[:, None]
        answers = torch.zeros(len(layout.roles), dtype=torch.bool)
        answers[list(layout.answer_positions)] = True
        useful = there & answers[at.clamp(min=0)]
        found[-1] |= useful
    too_late = (
        torch.tensor([leaf.layer == config.n_layers - 1 and leaf.kind != "token" for leaf in leaves]) & ~found[-1]
    )
    found[:-1] &= ~too_late[:, None]
    return found


def _written(leaf: Node) -> int:
    return -1 if leaf.kind == "token" else 2 * leaf.layer + _WRITES.get(leaf.kind, 2)


def _read(leaf: Node, config: ModelConfig) -> int:
    """Give the time before which a leaf's sources write: its own, or in a parallel block that of its heads."""
    beside_heads = config.parallel_residual and leaf.kind != "token"
    return 2 * leaf.layer + _WRITES["head"] if beside_heads else _written(leaf)


@torch.no_grad()
def run_edges(
    subject: Subject, tokens: Int[Tensor, "batch pos"], layout: Layout, donor: Activations, circuit: EdgeCircuit
) -> Float[Tensor, "batch answer vocab"]:
    """Give the logits at the answer positions of a circuit whose nodes hear only what its edges carry.

    Nodes whose role the layout lacks are left out. Leaves of every kind but `logit` run.
    """
    return _EdgeRun(subject, tokens, layout, donor, circuit).logits()


class _EdgeRun:
    """The state of one run: what each node has changed so far, and the donor's residual up to the current layer."""

    def __init__(
        self, subject: Subject, tokens: Tensor, layout: Layout, donor: Activations, circuit: EdgeCircuit
    ) -> None:
        self._subject, self._tokens, self._layout = subject, tokens, layout
        self._donor, self._nodes = donor, circuit.nodes
        roles = layout.roles
        self._first = [leaves[0] for leaves in circuit.nodes]
        self._at = [roles.index(leaf.role) if leaf.role in roles else -1 for leaf in self._first]
        self._reads = circuit.reads.to(subject.model.dtype)
        n_pos, d_model = tokens.shape[1], subject.model.config.d_model
        self._changes = subject.model.embed.new_zeros(len(circuit.nodes), len(tokens), d_model)
        self._written: list[list[int]] = [[] for _ in range(n_pos)]
        self._resid: Float[Tensor, "batch pos d_model"] = donor.embed + subject.model.position_part(n_pos)

    def logits(self) -> Float[Tensor, "batch answer vocab"]:
        model = self._subject.model
        n_pos = self._tokens.shape[1]
        live = model.embed[self._tokens] - self._donor.embed
        for number, leaf in enumerate(self._first):
            if leaf.kind == "token" and (at := self._at[number]) >= 0:
                self._write([number], at, live[None, :, at])
        rotary = model.rotary(n_pos)
        answers = set(self._layout.answer_positions)
        for layer in range(len(model.blocks)):
            wanted = sorted(answers) if layer == len(model.blocks) - 1 else range(n_pos)
            for at in wanted:
                if heads := self._numbers(layer, at, {"head"}):
                    self._write(heads, at, self._heads(layer, heads, at, rotary))
            attended = self._resid + self._donor.attention_out[layer]
            self._resid = model.mlp_reads(self._resid, attended)
            for at in wanted:
                if parts := self._numbers(layer, at, {"mlp", "feature", "skip", "error"}):
                    self._write(parts, at, self._parts(layer, parts, at))
            self._resid = attended + self._donor.mlp_out[layer]
        heard = [self._heard([len(self._nodes)], at)[0] for at in self._layout.answer_positions]
        return model.logits(torch.stack(heard, dim=1).expand(len(self._tokens), -1, -1))

    def _numbers(self, layer: int, at: int, kinds: set[str]) -> list[int]:
        return [
            number
            for number, leaf in enumerate(self._first)
            if self._at[number] == at and leaf.layer == layer and leaf.kind in kinds
        ]

    def _write(self, numbers: list[int], at: int, changes: Float[Tensor, "node batch d_model"]) -> None:
        self._changes[numbers] = changes
        self._written[at] += numbers

    def _heard(self, readers: list[int], at: int) -> Float[Tensor, "reader batch d_model"]:
        """Give the residual at a position as each reader hears it."""
        here = self._resid[None, :, at]
        sources = self._written[at]
        if not sources:
            return here.expand(len(readers), len(self._tokens), -1)
        return here + torch.einsum("ts,sbd->tbd", self._reads[readers][:, sources], self._changes[sources])

    def _heads(
        self, layer: int, readers: list[int], at: int, rotary: Rotary | None
    ) -> Float[Tensor, "reader batch d_model"]:
        """Give what heads of one layer and query position write, against the donor's."""
        block, config = self._subject.model.blocks[layer], self._subject.model.config
        attention = block.attention
        own = torch.tensor([self._first[number].index for number in readers])
        shared = own // config.group_size
        x = block.norm_attention(torch.stack([self._heard(readers, pos) for pos in range(at + 1)], dim=2))
        queries = torch.einsum("tbd,tdk->tbk", x[:, :, at], attention.w_q[own])
        keys = torch.einsum("tbpd,tdk->tbpk", x, attention.w_k[shared])
        values = torch.einsum("tbpd,tdk->tbpk", x, attention.w_v[shared])
        if attention.b_q is not None:
            queries = queries + attention.b_q[own][:, None]
        if attention.b_k is not None:
            keys = keys + attention.b_k[shared][:, None, None]
        if attention.b_v is not None:
            values = values + attention.b_v[shared][:, None, None]
        if rotary is not None:
            queries = rotary.rotate(queries[..., None, :], slice(at, at + 1)).squeeze(-2)
            keys = rotary.rotate(keys, slice(0, at + 1))
        pattern = (torch.einsum("tbk,tbpk->tbp", queries, keys) * config.d_head**-0.5).softmax(-1)
        z = torch.einsum("tbp,tbpk->tbk", pattern, values)
        change = z - self._donor.heads[layer][:, at, own].transpose(0, 1)
        return torch.einsum("tbk,tkd->tbd", change, attention.w_o[own])

    def _parts(self, layer: int, readers: list[int], at: int) -> Float[Tensor, "reader batch d_model"]:
        """Give what parts of one MLP at one position write, against the donor's.

        Readers that hear the same sources share one computation.
        """
        audible = torch.zeros(len(self._nodes))
        audible[self._written[at]] = 1.0
        rows, shared = torch.unique(self._reads[readers] * audible, dim=0, return_inverse=True)
        first = [readers[int((shared == row).nonzero()[0])] for row in range(len(rows))]
        heard = self._subject.model.blocks[layer].norm_mlp(self._heard(first, at))
        return torch.stack([self._sum(self._nodes[r], at, heard[shared[i]]) for i, r in enumerate(readers)])

    def _sum(
        self, leaves: tuple[Node, ...], at: int, x: Float[Tensor, "batch d_model"]
    ) -> Float[Tensor, "batch d_model"]:
        """Give what the leaves of one node, which hear `x`, write together."""
        indices: dict[str, list[int]] = {}
        for leaf in leaves:
            indices.setdefault(leaf.kind, []).append(leaf.index)
        return sum(
            (self._change(kind, leaves[0].layer, torch.tensor(index), at, x) for kind, index in indices.items()),
            start=x.new_zeros(()),
        )

    def _change(
        self, kind: str, layer: int, index: Int[Tensor, " feature"], at: int, x: Float[Tensor, "batch d_model"]
    ) -> Float[Tensor, "batch d_model"]:
        mlp, donor = self._subject.model.blocks[layer].mlp, self._donor
        if kind == "mlp":
            return mlp(x) - donor.mlp_out[layer][:, at]
        dictionary = self._subject.dictionaries[layer]
        if kind == "feature":
            difference = _features(dictionary, x, index) - donor.features[layer][:, at][:, index]
            return difference @ dictionary.w_dec[index]
        if kind == "error":
            return mlp(x) - dictionary.decode(dictionary.encode(x), x) - donor.errors[layer][:, at]
        return (
            dictionary.decode(x.new_zeros(len(x), dictionary.n_features), x)
            - dictionary.b_dec
            - donor.skips[layer][:, at]
        )


def _features(
    dictionary: Dictionary, x: Float[Tensor, "batch d_model"], index: Int[Tensor, " feature"]
) -> Float[Tensor, "batch feature"]:
    """Give some activations; where features compete for TopK, all are needed to know which survive."""
    return dictionary.only(index).encode(x) if dictionary.k is None else dictionary.encode(x)[:, index]


@torch.no_grad()
def evaluate_edges(prepared: Prepared, circuit: EdgeCircuit, ablation: Ablation) -> Outcome:
    """Score a circuit with only its own edges live on every prompt; unpaired donors are averaged over their draws."""
    parts = [_evaluate_batch(prepared, prompts, circuit, ablation) for prompts in prepared.batches]
    joined = [torch.cat(results) for results in zip(*parts, strict=True)]
    return Outcome(*joined)


def _evaluate_batch(
    prepared: Prepared, prompts: PreparedBatch, circuit: EdgeCircuit, ablation: Ablation
) -> tuple[Tensor, Tensor, Tensor]:
    config = prepared.subject.model.config
    widest = max([config.d_mlp, *(d.n_features for d in prepared.subject.dictionaries.values())])
    per_prompt = config.d_model * (len(circuit.nodes) + prompts.batch.clean.shape[1] * config.n_heads) + widest
    chunks = torch.arange(len(prompts.batch)).split(max(1, _FLOATS_AT_ONCE // per_prompt))
    rows = [_evaluate_chunk(prepared, prompts, circuit, ablation, index) for index in chunks]
    joined = [torch.cat(parts) for parts in zip(*rows, strict=True)]
    return joined[0], joined[1], joined[2]


def _evaluate_chunk(
    prepared: Prepared, prompts: PreparedBatch, circuit: EdgeCircuit, ablation: Ablation, index: Int[Tensor, " kept"]
) -> tuple[Tensor, Tensor, Tensor]:
    batch, reference = prompts.batch.take(index), prompts.clean.logits[index]
    own_choice = choose(reference, batch, prepared.judged)
    totals = [torch.zeros(len(index)) for _ in range(3)]
    donors = prompts.donors(ablation, index)
    for donor in donors:
        logits = run_edges(prepared.subject, batch.clean, batch.layout, donor, circuit)
        agree = (choose(logits, batch, prepared.judged) == own_choice).all(-1).float()
        for total, value in zip(totals, (agree, metric(logits, batch), divergence(reference, logits)), strict=True):
            total += value / len(donors)
    return totals[0], totals[1], totals[2]
