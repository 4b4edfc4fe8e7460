"""A small GPT-2 that reads bytes of prose: our dictionaries and eai-sparsify's on the same tokens of every layer."""

import statistics
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks.dictionaries.prose import write_prose
from benchmarks.dictionaries.recorded import record_text, rival_dictionary, train_rival
from benchmarks.tables import BUILD, Row
from hagd.corpora.corpus import Corpus
from hagd.corpora.sources import documents, shuffled
from hagd.dictionaries.dictionary import Dictionary
from hagd.models.architectures import convert
from hagd.models.language_model import LanguageModel
from hagd.testing import RecordingContext
from hagd_transcoder.corpus_dictionaries import make_plan
from hagd_transcoder.corpus_handlers import CorpusTranscoderConfig
from hagd_transcoder.domain.corpus_evaluation import evaluate_on_corpus
from hagd_transcoder.domain.corpus_training import train_on_corpus

N_LAYERS: Final = 4
WIDTH: Final = 128
CONTEXT: Final = 128
FEATURES: Final = 1024
K: Final = 16
TOKENS: Final = 300_000
STEPS: Final = 600
BATCH: Final = 128
FINETUNED: Final = 0.1
"""Share of the tokens, the last ones, on which our dictionaries learn together."""
RECIPES: Final = ((2048, 2e-3), (2048, 5e-3), (256, 8e-4), (256, 2e-3), (128, 2e-3))
"""Tokens per step and learning rate of theirs: what its own rule gives for this width, and larger rates; the best for
each layer counts."""
_CORPUS_BYTES: Final = 3_000_000
_BATCH: Final = 32


def measure_small_gpt2() -> list[Row]:
    """Train both on every layer, ours with and without learning together in the end; give the rows."""
    corpus = byte_corpus()
    model = byte_model(corpus)
    alone, finetuned = (_measure_ours(model, corpus, share) for share in (0.0, FINETUNED))
    train, held_out = corpus.windows("train"), corpus.windows("held-out")
    theirs = evaluate_on_corpus(model, _rivals(model, corpus), train, held_out, RecordingContext())
    linear = statistics.mean(layer["fvu_linear"] for layer in alone.measured["layers"])
    title = f"GPT-2 of {N_LAYERS} layers, F={FEATURES}, k={K}, {TOKENS} tokens"
    return [
        *_rows(f"{title}, the last {FINETUNED:.0%} together", finetuned, theirs, floors=True),
        *_rows(f"{title}, each layer alone", alone, theirs, floors=False),
        Row(f"{title}: FVU of the best linear map", linear),
    ]


class _Ours(NamedTuple):
    """What our training gives, and what it took."""

    measured: dict[str, Any]
    processor_seconds: float


def _measure_ours(model: LanguageModel, corpus: Corpus, finetune: float) -> _Ours:
    config = CorpusTranscoderConfig(
        n_features=FEATURES, k=K, tokens=TOKENS, skip=False, rule="batch-topk", batch=BATCH, finetune=finetune
    )
    train, held_out = corpus.windows("train"), corpus.windows("held-out")
    began = time.process_time()
    dictionaries = train_on_corpus(model, train, make_plan(config, model, corpus), RecordingContext()).dictionaries
    taken = time.process_time() - began
    return _Ours(evaluate_on_corpus(model, dictionaries, train, held_out, RecordingContext()), taken)


def _rows(title: str, ours: _Ours, theirs: Mapping[str, Any], *, floors: bool) -> list[Row]:
    layers = {"ours": ours.measured["layers"], "theirs": theirs["layers"]}
    shown = {name: ", ".join(f"{layer['fvu']:.3f}" for layer in it) for name, it in layers.items()}
    fvu = ours.measured["fvu_mean"] / theirs["fvu_mean"]
    kl_nats = {"ours": ours.measured["kl_nats"], "theirs": theirs["kl_nats"]}
    rows = [
        Row(f"{title}: FVU beside theirs", fvu, 0.9, at_most=True, note=f"{shown}"),
        # BatchTopK keeps k features on average, and thresholds are what it ends as.
        Row(
            f"{title}: features per token",
            max(layer["l0"] for layer in layers["ours"]),
            1.02 * K,
            at_most=True,
            note="worst layer",
        ),
        Row(
            f"{title}: dead share",
            max(layer["dead_share"] for layer in layers["ours"]),
            0.05,
            at_most=True,
            note="worst layer",
        ),
        Row(
            f"{title}: KL with all MLPs replaced, beside theirs",
            kl_nats["ours"] / kl_nats["theirs"],
            0.8,
            at_most=True,
            note=f"{kl_nats['ours']:.3f} and {kl_nats['theirs']:.3f} nats; {ours.processor_seconds:.0f} CPU s of ours",
        ),
    ]
    return rows if floors else [replace(row, floor=None) for row in rows]


def byte_corpus() -> Corpus:
    """Give prose as bytes."""
    path = BUILD / "prose.jsonl"
    if not path.exists():
        write_prose(path)
    pieces, total = list[torch.Tensor](), 0
    for text in shuffled(documents([path]), seed=0):
        pieces.append(torch.tensor(list(text.encode()[:20_000]), dtype=torch.int32))
        total += len(pieces[-1])
        if total >= _CORPUS_BYTES:
            break
    offsets = torch.tensor([0, *map(len, pieces)]).cumsum(0)
    held_out = torch.arange(len(pieces)) % 10 == 0
    return Corpus(torch.cat(pieces), offsets, held_out, CONTEXT, None)


def byte_model(corpus: Corpus) -> LanguageModel:
    """Train the model on the corpus, or read it where that was done before."""
    path = BUILD / "small-gpt2.safetensors"
    torch.manual_seed(0)
    shape = GPT2Config(
        vocab_size=256, n_positions=CONTEXT, n_embd=WIDTH, n_layer=N_LAYERS, n_head=4, tie_word_embeddings=False
    )
    none = dict.fromkeys(("bos_token_id", "eos_token_id"))
    for name, value in {"embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0, **none}.items():
        setattr(shape, name, value)
    module = GPT2LMHeadModel(shape)
    if path.exists():
        module.load_state_dict(load_file(path), strict=False)
    else:
        _train(module, corpus)
        save_file({name: value.contiguous() for name, value in module.state_dict().items()}, path)
    return convert(module.eval())


def _train(module: GPT2LMHeadModel, corpus: Corpus) -> None:
    windows = corpus.windows("train")
    optimiser = torch.optim.AdamW(module.parameters(), lr=2e-3, weight_decay=0.1, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, STEPS, pct_start=0.1)
    draw = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        batch = windows.batch(torch.randint(len(windows), (_BATCH,), generator=draw))
        logits = module(batch.tokens).logits[:, :-1][batch.counted[:, 1:]]
        functional.cross_entropy(logits, batch.tokens[:, 1:][batch.counted[:, 1:]]).backward()
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()


def _rivals(model: LanguageModel, corpus: Corpus) -> dict[int, Dictionary]:
    folder, layers = BUILD / "small-gpt2", range(N_LAYERS)
    record_text(model, corpus.windows("train"), layers, folder, TOKENS)
    record_text(model, corpus.windows("held-out"), layers, folder, 20_000, suffix="_held_out")
    return {it: _best_rival(folder / str(it), it) for it in layers}


def _best_rival(folder: Path, layer: int) -> Dictionary:
    """Train by each recipe, and give the one with the smallest held-out error."""
    found: dict[float, Dictionary] = {}
    x, out = (torch.from_numpy(np.load(folder / f"{name}_held_out.npy")) for name in ("x", "out"))
    for batch, rate in RECIPES:
        train_rival(folder, features=FEATURES, k=K, batch=batch, learning_rate=rate, most_steps=TOKENS // batch)
        dictionary = rival_dictionary(folder, layer, K)
        found[float((out - dictionary.decode(dictionary.encode(x), x)).square().sum())] = dictionary
    return found[min(found)]
