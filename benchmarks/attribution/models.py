"""A prompt of SmolLM2-135M, and the task graph of modular addition."""

import time
from typing import Final

import torch

from benchmarks.tables import Row
from hagd.attribution.build import LocalGraphConfig, PromptText, build_local_graph, silent
from hagd.attribution.frozen import freeze
from hagd.attribution.replacement import Replacement
from hagd.attribution.targets import LogitChoice, likeliest
from hagd.dictionaries.dictionary import neurons_of
from hagd.graphs.local_influence import missed_influence, score
from hagd.interventions.activations import Subject
from hagd.models.architectures import convert
from hagd.models.loading import load_model
from hagd.tasks.configs import ModularAdditionConfig
from hagd.tasks.registry import build_task
from hagd.testing import RecordingContext
from hagd_coarsening.domain.task_graph import GraphConfig, build_task_graph
from hagd_transcoder.dictionaries import make_plan
from hagd_transcoder.domain.base_models import train_base_model
from hagd_transcoder.domain.exercises import exercise_for
from hagd_transcoder.domain.training import train
from hagd_transcoder.handlers import TranscoderConfig

PROMPT: Final = "When Mary and John went to the store, John gave a bottle of milk to"
N_TOKENS: Final = 16
NODES: Final = 4_000


def measure_smollm2() -> list[Row]:
    """Trace sixteen tokens in the basis of neurons, one thread."""
    torch.set_num_threads(1)
    loaded = load_model("smollm2")
    ids = loaded.tokenizer.encode(PROMPT)[:N_TOKENS] if loaded.tokenizer is not None else []
    model = loaded.model
    replacement = Replacement({layer: neurons_of(block.mlp, layer) for layer, block in enumerate(model.blocks)}, model)
    begun = time.perf_counter()
    frozen = freeze(model, replacement, torch.tensor(ids), plain=1)
    config = LocalGraphConfig(most_features=NODES)
    graph = build_local_graph(frozen, PromptText("", ()), likeliest(frozen, LogitChoice()), config, silent)
    seconds = time.perf_counter() - begun
    found = score(graph)
    note = (
        f"{len(ids)} tokens, {frozen.n_active} active neurons, replacement {found.replacement:.2f}, "
        f"completeness {found.completeness:.2f}, missed {missed_influence(graph):.2f}"
    )
    return [Row(f"SmolLM2, top {NODES} nodes, one thread (s)", seconds, 60.0, at_most=True, note=note)]


def measure_task() -> list[Row]:
    """Build the graph of 512 prompts of addition modulo 113."""
    exercise = exercise_for("modular-addition", ModularAdditionConfig(modulus=113), 0)
    model = convert(train_base_model(exercise, 0, RecordingContext()).module.eval())
    task = build_task("modular-addition", {"modulus": 113})
    batches = task.batches["discover"]
    plan = make_plan(TranscoderConfig(), model, sum(map(len, batches)), len(task.roles))
    subject = Subject(model, train(model, list(batches), plan, RecordingContext()))
    begun = time.perf_counter()
    graph = build_task_graph(subject, task, GraphConfig(prompts=512))
    seconds = time.perf_counter() - begun
    note = f"{graph.n_nodes} nodes, {len(graph.weight)} edges"
    return [Row("task graph, 512 prompts of modulus 113 (s)", seconds, 10.0, at_most=True, note=note)]
