"""A model whose every number is known: one neuron per token looks the answer up, attention does nothing.

As many decoys are active on the same tokens and write nothing, so that random circuits have room to do worse.

The prompt is `(noise, x)`, the answer follows x. Neuron j is active on token j alone and writes `strength[j]` to the
logit of token (j + 1) mod V. Both norms have an epsilon so large that they only scale. So with the token live,
preservation and faithfulness follow from the chosen neurons S by counting:

    under donor d:  logit[answer(x)] = strength[x] if x in S,   logit[answer(d)] = strength[d] if d not in S
"""

import math

import numpy as np
import torch
from torch import Tensor

from hagd.dictionaries.dictionary import neurons_of
from hagd.graphs.attribution_graph import AttributionGraph
from hagd.graphs.circuit import Circuit, CircuitEdge, CircuitNode
from hagd.graphs.nodes import Node
from hagd.interventions.activations import Subject
from hagd.models.language_model import Attention, Block, LanguageModel, Mlp, ModelConfig, Norm
from hagd.tasks.task import Layout, PromptBatch, Split, Task

V = 19
NEURONS = 2 * V
"""Neuron j < V looks token j up; neuron V + j is its decoy."""
NOISES = 11
ROLES = ("noise", "x")
LAYOUT = Layout(ROLES, (1,))
_FLAT = 1e12
"""Epsilon of a norm that only scales."""


def strengths() -> Tensor:
    """Give distinct strengths, so that no two logits tie."""
    return 1 + torch.arange(V) / V


def lookup_model() -> LanguageModel:
    """Give the model."""
    d_model, heads, d_head = 2 * V, 2, 3
    gain = torch.full((d_model,), math.sqrt(_FLAT))
    norm = Norm("rms", gain, None, _FLAT)
    nothing = torch.zeros(heads, d_model, d_head)
    w_in = torch.eye(d_model)[:, :V].repeat(1, 2)
    w_out = torch.zeros(NEURONS, d_model)
    w_out[torch.arange(V), V + (torch.arange(V) + 1) % V] = strengths()
    attention = Attention(nothing, nothing, nothing, torch.zeros(heads, d_head, d_model), None, None, None, None)
    mlp = Mlp("relu", None, w_in, torch.zeros(NEURONS), w_out, torch.zeros(d_model))
    config = ModelConfig("gpt2", 1, d_model, heads, heads, d_head, NEURONS, V, 5, "relu", "rms", _FLAT, None)
    unembed = torch.eye(d_model)[:, V:].contiguous()
    block = Block(norm, attention, norm, mlp)
    return LanguageModel(config, torch.eye(V, d_model), torch.zeros(5, d_model), (block,), norm, unembed)


def lookup_batch(noises: range) -> PromptBatch:
    """Give every token after every noise; the counterfactual asks for the next token."""
    noise = torch.tensor(list(noises)).repeat_interleave(V)
    x = torch.arange(V).repeat(len(noises))
    other = (x + 1) % V
    return PromptBatch(
        LAYOUT,
        torch.stack([noise, x], 1),
        torch.stack([noise, other], 1),
        ((x + 1) % V)[:, None],
        ((other + 1) % V)[:, None, None],
        tuple(f"{n}+{i}" for n, i in zip(noise.tolist(), x.tolist(), strict=True)),
    )


def lookup_task(noises: int = NOISES) -> Task:
    """Give the task; all splits hold the same questions behind other noise."""
    splits: dict[Split, tuple[PromptBatch, ...]] = {
        "discover": (lookup_batch(range(2)),),
        "select": (lookup_batch(range(2, 4)),),
        "verify": (lookup_batch(range(4, 4 + noises)),),
        "ood": (lookup_batch(range(4)),),
    }
    text = {i: str(i) for i in range(V)}
    return Task("lookup", ROLES, splits, text, "vocabulary", bos=False, minimum_accuracy=0.99)


def lookup_subject() -> Subject:
    """Give the model with its own neurons as dictionary."""
    model = lookup_model()
    return Subject(model, {0: neurons_of(model.blocks[0].mlp, 0)})


def single(leaf: Node, score: float = 1.0) -> CircuitNode:
    """Give a node that is one leaf."""
    block = leaf.kind == "mlp"
    return CircuitNode(str(leaf), leaf.kind, leaf.layer, leaf.role, (leaf,), NEURONS + 1 if block else 1, block, score)


def feature(index: int, role: str = "x") -> Node:
    return Node("feature", 0, role, index)


def lookup_circuit(chosen: list[int], rest: list[int] | None = None) -> Circuit:
    """Give the token and the chosen neurons as the circuit, other neurons behind them in the family."""
    nodes = [single(Node("token", -1, "x"))] + [single(feature(i)) for i in chosen]
    family = nodes + [single(feature(i)) for i in rest or []]
    edges = [CircuitEdge("token@x", node.id, 1.0) for node in nodes[1:]]
    edges += [CircuitEdge(node.id, "logit@x", 1.0) for node in nodes[1:]]
    return Circuit(tuple(family), len(nodes), tuple(edges), len(edges), {0: ROLES}, 0, ())


def lookup_graph() -> AttributionGraph:
    """Give a graph that knows the neurons' true order: by strength."""
    leaves = [Node("token", -1, "x"), *[feature(i) for i in range(NEURONS)]]
    nodes = (*leaves, Node("logit", 1, "x"))
    score = np.array([10.0, *strengths().tolist(), *[0.0] * V, 0.0])
    none = np.zeros(0)
    index = np.zeros(0, dtype=np.int64)
    return AttributionGraph(nodes, ROLES, 1, index, index, none, none, {"score_abs": score}, 2 * V)


def faithfulness_of(chosen: list[int]) -> float:
    """Give F by the closed form: the chosen neurons' share of all strength."""
    return float(strengths()[chosen].sum() / strengths().sum())


def preserved_under_counterfactual(chosen: list[int]) -> float:
    """Give BP by counting: x is chosen, and the donor's neuron is chosen too or weaker."""
    strength, inside = strengths(), set(chosen)
    kept = [x in inside and ((x + 1) % V in inside or bool(strength[x] > strength[(x + 1) % V])) for x in range(V)]
    return sum(kept) / V
