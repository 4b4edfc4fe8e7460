"""A random two-layer model in which only a planted set of nodes writes anything: the search must find exactly it."""

from dataclasses import dataclass

import torch

from hagd.dictionaries.dictionary import neurons_of
from hagd.graphs.nodes import Node
from hagd.interventions.activations import Subject
from hagd.interventions.evaluation import Prepared, prepare
from hagd.interventions.universe import Universe
from hagd.models.language_model import Attention, Block, LanguageModel, Mlp, ModelConfig, Norm
from hagd.tasks.task import Layout, PromptBatch, Task

ROLES = ("a", "b", "eq")
D_MODEL, N_HEADS, D_HEAD, D_MLP, VOCAB = 23, 3, 7, 11, 13
WRITING_HEAD, WRITING_NEURONS = 1, (2, 5, 7)


@dataclass(frozen=True)
class Planted:
    subject: Subject
    universe: Universe
    task: Task
    prepared: Prepared
    truth: frozenset[Node]


def planted(n_prompts: int = 64) -> Planted:
    """Layer 0 moves with one head from `a` to `eq`; layer 1 computes with three neurons at `eq`; all else is silent."""
    generator = torch.Generator().manual_seed(3)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 0.6

    blocks = []
    for layer in range(2):
        w_o, w_out = torch.zeros(N_HEADS, D_HEAD, D_MODEL), torch.zeros(D_MLP, D_MODEL)
        if layer == 0:
            w_o[WRITING_HEAD] = noise(D_HEAD, D_MODEL)
        else:
            w_out[list(WRITING_NEURONS)] = 3 * noise(len(WRITING_NEURONS), D_MODEL)
        attention = Attention(
            noise(N_HEADS, D_MODEL, D_HEAD),
            noise(N_HEADS, D_MODEL, D_HEAD),
            noise(N_HEADS, D_MODEL, D_HEAD),
            w_o,
            None,
            None,
            None,
            None,
        )
        norm = Norm("rms", torch.ones(D_MODEL), None, 1e-5)
        blocks.append(Block(norm, attention, norm, Mlp("relu", None, noise(D_MODEL, D_MLP), None, w_out, None)))
    config = ModelConfig("toy", 2, D_MODEL, N_HEADS, N_HEADS, D_HEAD, D_MLP, VOCAB, 5, "relu", "rms", 1e-5, None)
    model = LanguageModel(
        config,
        noise(VOCAB, D_MODEL),
        noise(5, D_MODEL),
        tuple(blocks),
        Norm("rms", torch.ones(D_MODEL), None, 1e-5),
        noise(D_MODEL, VOCAB),
    )
    subject = Subject(model, {layer: neurons_of(block.mlp, layer) for layer, block in enumerate(blocks)})
    task = _task(n_prompts, generator)
    universe = Universe.of(subject, ROLES, torch.ones(2, len(ROLES), dtype=torch.bool))
    truth = {Node("token", -1, role) for role in ROLES} | {Node("head", 0, "eq", WRITING_HEAD)}
    truth |= {Node("feature", 1, "eq", neuron) for neuron in WRITING_NEURONS}
    prepared = prepare(subject, universe, task, "discover", seed=0)
    return Planted(subject, universe, task, prepared, frozenset(truth))


def _task(n_prompts: int, generator: torch.Generator) -> Task:
    clean = torch.randint(0, VOCAB, (n_prompts, 3), generator=generator)
    other = torch.randint(0, VOCAB, (n_prompts, 3), generator=generator)
    answers = torch.arange(n_prompts)[:, None] % VOCAB
    foils = ((answers + 1) % VOCAB)[..., None]
    groups = tuple(f"g{i}" for i in range(n_prompts))
    batch = PromptBatch(Layout(ROLES, (2,)), clean, other, answers, foils, groups)
    text = {i: str(i) for i in range(VOCAB)}
    return Task("toy", ROLES, {"discover": (batch,), "select": (batch,)}, text, "vocabulary", False, 0.0)
