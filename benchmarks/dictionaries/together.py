"""Tokens per second of one layer, trained by one process or by two that share every update, by threads and updates.

The model is random and has this one layer; its run is part of what is timed, as it is in training.
"""

import time
from dataclasses import dataclass, field
from typing import Any, Final

import torch

from benchmarks.tables import Row
from hagd.artifacts.document import Document
from hagd.corpora.corpus import Corpus
from hagd.corpora.storage import corpus_to_document
from hagd.models.language_model import Attention, Block, LanguageModel, Mlp, ModelConfig, Norm
from hagd.models.storage import model_to_document
from hagd.testing import RecordingContext
from hagd_transcoder.corpus_dictionaries import TAKE_PART, make_plan
from hagd_transcoder.corpus_handlers import read_config
from hagd_transcoder.domain.corpus_training import train_on_corpus
from hagd_transcoder.members import together

WIDTH: Final = 576
CONTEXT: Final = 128
VOCAB: Final = 997
STEPS: Final = 8
"""Of 4,096 tokens; the first is not timed."""
UPDATES: Final = (2048, 512)
"""Tokens of an update."""
PROCESSES: Final = ((1, 1), (1, 2), (2, 2))
"""How many processes, with how many threads together."""


@dataclass
class _Clock(RecordingContext):
    times: list[float] = field(default_factory=list[float])

    def progress(self, done: float, total: float, message: str) -> None:
        super().progress(done, total, message)
        self.times.append(time.perf_counter())


def measure_together() -> list[Row]:
    """Measure every way to share the work; give the rows."""
    model, corpus = _model(), _corpus()
    rows: list[Row] = []
    for batch in UPDATES:
        for workers, threads in PROCESSES:
            speed = _speed(model, corpus, batch, workers, threads)
            rows.append(Row(f"tokens/s, updates of {batch}, {workers} x {threads // workers} threads", speed))
    return rows


def _speed(model: LanguageModel, corpus: Corpus, batch: int, workers: int, threads: int) -> float:
    config: dict[str, Any] = {"n_features": 8 * WIDTH, "k": 64, "k_start": 64, "batch": batch, "buffer": 4096}
    config |= {"tokens": STEPS * 4096, "workers": workers, "checkpoints": 1}
    plan = make_plan(read_config(config), model, corpus)
    inputs: dict[str, Document] = {"model": model_to_document(model), "corpus": corpus_to_document(corpus, {})}
    before, clock = torch.get_num_threads(), _Clock()
    torch.set_num_threads(threads)
    try:
        with together(TAKE_PART, inputs, config, clock, workers) as (group, shared):
            train_on_corpus(model, corpus.windows("train"), plan, shared, group)
    finally:
        torch.set_num_threads(before)
    # The first report comes before the first step.
    return plan.windows * (CONTEXT - 1) * (plan.steps - 1) / (clock.times[-1] - clock.times[1])


def _corpus() -> Corpus:
    generator, length = torch.Generator().manual_seed(0), (STEPS + 1) * 4096
    tokens = torch.randint(VOCAB, (length,), generator=generator).int()
    offsets = torch.arange(0, length + 1, 4 * CONTEXT)
    return Corpus(tokens, offsets, torch.arange(len(offsets) - 1) % 16 == 0, CONTEXT, None)


def _model() -> LanguageModel:
    """Give a random layer in the shape of SmolLM2-135M."""
    generator, n_heads, n_kv_heads, d_head, d_mlp = torch.Generator().manual_seed(1), 9, 3, 64, 1536

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) / WIDTH**0.5

    def norm() -> Norm:
        return Norm("rms", torch.ones(WIDTH), None, 1e-5)

    shape = ModelConfig(
        architecture="llama",
        n_layers=1,
        d_model=WIDTH,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        d_head=d_head,
        d_mlp=d_mlp,
        vocab_size=VOCAB,
        n_positions=CONTEXT,
        activation="silu",
        norm="rms",
        norm_eps=1e-5,
        rotary_base=10_000.0,
    )
    side, none = (n_kv_heads, WIDTH, d_head), (None, None, None)
    attention = Attention(
        draw(n_heads, WIDTH, d_head), draw(*side), draw(*side), draw(n_heads, d_head, WIDTH), *none, None
    )
    mlp = Mlp("silu", draw(WIDTH, d_mlp), draw(WIDTH, d_mlp), None, draw(d_mlp, WIDTH), None)
    block = Block(norm(), attention, norm(), mlp)
    return LanguageModel(shape, draw(VOCAB, WIDTH), None, (block,), norm(), draw(WIDTH, VOCAB))
