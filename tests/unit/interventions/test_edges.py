"""Edge-level runs against node-level runs, and against a slow account that gives every reader a model of its own."""

import pytest
import torch
from torch import Tensor

from hagd.graphs.nodes import Node
from hagd.interventions.activations import Activations, Subject, record
from hagd.interventions.edges import EdgeCircuit, admissible, evaluate_edges, run_edges
from hagd.interventions.engine import run_circuit
from hagd.interventions.evaluation import HEADLINE, evaluate, prepare
from hagd.interventions.universe import Universe
from hagd.models.attention import attend, project_heads
from hagd.tasks.task import Layout
from unit.hagd_coarsening.tiny import VOCAB, neuron_subject, tiny_model, tiny_subject, tiny_task

ROLES = ("a", "b", "c", "eq")
LAYOUT = Layout(ROLES, (2, 3))


def features(subject: Subject) -> tuple[Node, ...]:
    """A circuit of every kind that a refined model has."""
    nodes = [Node("token", -1, role) for role in ("a", "c")]
    nodes += [Node("head", layer, role, i) for layer, role, i in ((0, "b", 3), (0, "eq", 1), (1, "c", 0), (1, "eq", 5))]
    nodes += [Node("feature", 0, role, i) for role in ROLES for i in (0, 2, 7, 8)]
    nodes += [Node("feature", 1, role, i) for role in ("b", "c", "eq") for i in (1, 4, 10)]
    nodes += [Node("skip", 0, "b")] if subject.dictionaries[0].w_skip is not None else []
    return tuple(nodes)


def blocks() -> tuple[Node, ...]:
    nodes = [Node("token", -1, role) for role in ("b", "eq")]
    nodes += [Node("head", 0, "eq", i) for i in range(3)] + [Node("head", 1, "c", 2), Node("head", 1, "eq", 4)]
    return (*nodes, Node("mlp", 0, "a"), Node("mlp", 0, "b"), Node("mlp", 0, "eq"), Node("mlp", 1, "c"))


def singly(leaves: tuple[Node, ...]) -> tuple[tuple[Node, ...], ...]:
    return tuple((leaf,) for leaf in leaves)


CASES = {
    "gpt2 features": lambda: tiny_subject("gpt2"),
    "llama features": lambda: tiny_subject("llama"),
    "gpt_neox features": lambda: tiny_subject("gpt_neox"),
    "llama neurons": lambda: neuron_subject("llama"),
    "gpt_neox neurons": lambda: neuron_subject("gpt_neox"),
    "gpt2 blocks": lambda: Subject(tiny_model("gpt2")),
    "llama blocks": lambda: Subject(tiny_model("llama")),
    "gpt_neox blocks": lambda: Subject(tiny_model("gpt_neox")),
}


def setting(name: str) -> tuple[Subject, tuple[Node, ...], Tensor, Activations]:
    subject = CASES[name]()
    leaves = features(subject) if subject.dictionaries else blocks()
    generator = torch.Generator().manual_seed(3)
    clean, other = torch.randint(0, VOCAB, (2, 5, 4), generator=generator)
    return subject, leaves, clean, record(subject, other, LAYOUT.answer_positions)


def node_level(subject: Subject, leaves: tuple[Node, ...], clean: Tensor, donor: Activations) -> Tensor:
    refined = torch.zeros(2, 4, dtype=torch.bool)
    refined[list(subject.dictionaries)] = True
    universe = Universe.of(subject, ROLES, refined)
    gates = universe.gates_at(universe.vector(leaves).double(), LAYOUT)
    return run_circuit(subject, clean, LAYOUT.answer_positions, donor, gates).logits


@pytest.mark.parametrize("name", CASES)
def test_all_edges_give_the_node_level_circuit(name: str) -> None:
    subject, leaves, clean, donor = setting(name)
    every = EdgeCircuit(singly(leaves), admissible(singly(leaves), [LAYOUT], subject.model.config))
    expected = node_level(subject, leaves, clean, donor)
    torch.testing.assert_close(run_edges(subject, clean, LAYOUT, donor, every), expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", CASES)
def test_no_edges_give_the_donor(name: str) -> None:
    subject, leaves, clean, donor = setting(name)
    none = EdgeCircuit(singly(leaves), torch.zeros(len(leaves) + 1, len(leaves), dtype=torch.bool))
    torch.testing.assert_close(run_edges(subject, clean, LAYOUT, donor, none), donor.logits, atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", CASES)
def test_some_edges_give_what_a_reader_with_its_own_model_hears(name: str) -> None:
    subject, leaves, clean, donor = setting(name)
    generator = torch.Generator().manual_seed(5)
    possible = admissible(singly(leaves), [LAYOUT], subject.model.config)
    some = possible & (torch.rand(possible.shape, generator=generator) < 0.5)
    given = run_edges(subject, clean, LAYOUT, donor, EdgeCircuit(singly(leaves), some))
    torch.testing.assert_close(given, slow_edges(subject, leaves, some, clean, donor), atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", ["gpt2 features", "llama features", "llama neurons", "gpt_neox features"])
def test_a_supernode_hears_and_writes_as_its_leaves_do_together(name: str) -> None:
    subject, leaves, clean, donor = setting(name)
    together: dict[tuple[object, ...], list[int]] = {}
    for number, leaf in enumerate(leaves):
        part = leaf.kind in ("feature", "skip")
        together.setdefault((leaf.layer, leaf.role, "mlp" if part else (leaf.kind, leaf.index)), []).append(number)
    nodes = tuple(tuple(leaves[i] for i in group) for group in together.values())
    assert len(nodes) < len(leaves)
    possible = admissible(nodes, [LAYOUT], subject.model.config)
    some = possible & (torch.rand(possible.shape, generator=torch.Generator().manual_seed(7)) < 0.5)
    reads = torch.zeros(len(leaves) + 1, len(leaves), dtype=torch.bool)
    groups = [*together.values(), [len(leaves)]]
    for reader, source in some.nonzero().tolist():
        reads[torch.tensor(groups[reader])[:, None], torch.tensor(groups[source])] = True
    given = run_edges(subject, clean, LAYOUT, donor, EdgeCircuit(nodes, some))
    torch.testing.assert_close(given, slow_edges(subject, leaves, reads, clean, donor), atol=1e-9, rtol=0)


def slow_edges(subject: Subject, leaves: tuple[Node, ...], reads: Tensor, clean: Tensor, donor: Activations) -> Tensor:
    """Give each reader a whole residual stream and run the model's own layer on it."""
    model, known = subject.model, {}
    for number in sorted(range(len(leaves)), key=lambda i: order_of(leaves[i])):
        known[number] = change_of(
            subject, leaves, number, heard(subject, leaves, reads, number, donor, known), clean, donor
        )
    final = heard(subject, leaves, reads, len(leaves), donor, known)
    return model.logits(final[:, list(LAYOUT.answer_positions)])


def order_of(leaf: Node) -> tuple[int, int]:
    return leaf.layer, int(leaf.kind != "head")


def heard(subject, leaves, reads, reader: int, donor: Activations, known: dict[int, Tensor]) -> Tensor:
    model = subject.model
    leaf = leaves[reader] if reader < len(leaves) else Node("logit", model.config.n_layers, "eq")
    resid = donor.embed + model.position_part(4)
    for layer in range(min(leaf.layer + 1, model.config.n_layers)):
        last = layer == leaf.layer
        if not last or (leaf.kind != "head" and not model.config.parallel_residual):
            resid = resid + project_heads(model.blocks[layer].attention, donor.heads[layer])
        if not last:
            resid = resid + donor.mlp_out[layer]
    resid = resid.clone()
    for source, change in known.items():
        if reads[reader, source]:
            resid[:, ROLES.index(leaves[source].role)] += change
    return resid


def change_of(subject, leaves, number: int, resid: Tensor, clean: Tensor, donor: Activations) -> Tensor:
    model, leaf = subject.model, leaves[number]
    at = ROLES.index(leaf.role)
    if leaf.kind == "token":
        return model.embed[clean[:, at]] - donor.embed[:, at]
    block = model.blocks[leaf.layer]
    if leaf.kind == "head":
        z, _ = attend(block.attention, block.norm_attention(resid), model.rotary(4), torch.arange(4))
        return (z - donor.heads[leaf.layer])[:, at, leaf.index] @ block.attention.w_o[leaf.index]
    x = block.norm_mlp(resid)[:, at]
    if leaf.kind == "mlp":
        return block.mlp(x) - donor.mlp_out[leaf.layer][:, at]
    dictionary = subject.dictionaries[leaf.layer]
    if leaf.kind == "skip":
        return x @ dictionary.w_skip - donor.skips[leaf.layer][:, at]
    value = dictionary.encode(x)[:, leaf.index] - donor.features[leaf.layer][:, at, leaf.index]
    return value[:, None] * dictionary.w_dec[leaf.index]


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox"])
def test_an_edge_runs_only_from_earlier_to_later_and_along_what_attention_sees(architecture: str) -> None:
    leaves = (Node("token", -1, "b"), Node("head", 0, "b", 1), Node("feature", 0, "b", 3), Node("head", 1, "eq", 2))
    found = admissible(singly(leaves), [Layout(("a", "b", "eq"), (2,))], tiny_model(architecture).config)
    assert found.tolist() == [
        [False, False, False, False],  # a token reads nothing
        [True, False, False, False],
        [True, architecture == "gpt2", False, False],  # in a parallel block an MLP does not read the heads beside it
        [True, True, True, False],  # a head sees earlier positions
        [False, False, False, True],  # only the answer position reaches the logit
    ]


def test_a_node_of_the_last_layer_off_the_answer_has_no_edges() -> None:
    leaves = (Node("token", -1, "a"), Node("mlp", 0, "a"), Node("mlp", 0, "eq"))
    found = admissible(singly(leaves), [Layout(("a", "eq"), (1,))], tiny_model("gpt2", n_layers=1).config)
    assert not found[1].any()
    assert not found[:, 1].any()


@pytest.mark.parametrize("headline", HEADLINE)
def test_edge_scores_agree_with_node_scores_when_all_edges_are_there(headline) -> None:
    subject, task = tiny_subject("gpt2"), tiny_task()
    leaves = tuple(leaf for leaf in features(subject) if leaf.role in task.roles)
    refined = torch.ones(2, 4, dtype=torch.bool)
    universe = Universe.of(subject, task.roles, refined)
    prepared = prepare(subject, universe, task, "discover", seed=0)
    layouts = [batch.layout for batch in task.batches["discover"]]
    by_edges = evaluate_edges(
        prepared,
        EdgeCircuit(singly(leaves), admissible(singly(leaves), layouts, subject.model.config)),
        headline.ablation,
    )
    by_nodes = evaluate(prepared, universe.vector(leaves), headline)
    torch.testing.assert_close(by_edges.metric, by_nodes.metric, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(by_edges.kl_nats, by_nodes.kl_nats, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(by_edges.agreement, by_nodes.agreement)
