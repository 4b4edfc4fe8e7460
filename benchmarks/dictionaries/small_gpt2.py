"""A small GPT-2 that reads bytes of prose: our dictionaries and eai-sparsify's on the same tokens of every layer."""

import statistics
import time
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
from hagd.corpora.corpus import Corpus, Windows
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
PASSES: Final = 3
"""How often both sides read the tokens, where floors are asked."""
FINETUNED: Final = 0.2
"""Share of what is read, the last of it, on which our dictionaries learn together."""
BALANCE: Final = 0.05
"""How fast rare features are favoured: the more often tokens are read, the more features would die."""
RECIPES: Final = ((2048, 5e-3), (256, 2e-3), (128, 2e-3))
"""Tokens per step and learning rate of theirs; the best for each layer counts."""
_CORPUS_BYTES: Final = 3_000_000
_BATCH: Final = 32


def measure_small_gpt2() -> list[Row]:
    """Train both on every layer, once through the tokens and more often, ours also without learning together in the
    end; give the rows."""
    corpus = byte_corpus()
    model = byte_model(corpus)
    seen = some_windows(corpus)
    rows: list[Row] = []
    for passes in (PASSES, 1):
        theirs = _measure_theirs(model, corpus, seen, passes)
        for share in (FINETUNED, 0.0):
            ours = _measure_ours(model, corpus, seen, passes, share)
            way = f"the last {share:.0%} together" if share else "each layer alone"
            title = f"GPT-2 of {N_LAYERS} layers, F={FEATURES}, k={K}, {TOKENS} tokens read {passes} times, {way}"
            rows += _rows(title, ours, theirs, floors=passes == PASSES and share == FINETUNED)
    linear = statistics.mean(layer["fvu_linear"] for layer in theirs.measured["layers"])
    return [*rows, Row("FVU of the best linear map", linear)]


class _Trained(NamedTuple):
    """What training gives, and what it took."""

    measured: dict[str, Any]
    processor_seconds: float
    """Of ours with the model's runs, of theirs without."""


def _measure_ours(model: LanguageModel, corpus: Corpus, seen: Windows, passes: int, finetune: float) -> _Trained:
    tokens = passes * TOKENS
    config = CorpusTranscoderConfig(
        n_features=FEATURES,
        k=K,
        tokens=tokens,
        skip=False,
        rule="batch-topk",
        batch=BATCH,
        balance=BALANCE,
        finetune=finetune,
    )
    began = time.process_time()
    dictionaries = train_on_corpus(model, seen, make_plan(config, model, corpus), RecordingContext()).dictionaries
    taken = time.process_time() - began
    held_out = corpus.windows("held-out")
    return _Trained(evaluate_on_corpus(model, dictionaries, seen, held_out, RecordingContext()), taken)


def _measure_theirs(model: LanguageModel, corpus: Corpus, seen: Windows, passes: int) -> _Trained:
    folder, layers, held_out = BUILD / "small-gpt2", range(N_LAYERS), corpus.windows("held-out")
    record_text(model, seen, layers, folder, TOKENS)
    record_text(model, held_out, layers, folder, 20_000, suffix="_held_out")
    found = [_best_rival(folder / str(it), it, passes) for it in layers]
    dictionaries = {it: dictionary for it, (dictionary, _) in enumerate(found)}
    measured = evaluate_on_corpus(model, dictionaries, seen, held_out, RecordingContext())
    return _Trained(measured, sum(seconds for _, seconds in found))


def _rows(title: str, ours: _Trained, theirs: _Trained, *, floors: bool) -> list[Row]:
    layers = {"ours": ours.measured["layers"], "theirs": theirs.measured["layers"]}
    shown = {name: ", ".join(f"{layer['fvu']:.3f}" for layer in it) for name, it in layers.items()}
    dead = {name: max(layer["dead_share"] for layer in it) for name, it in layers.items()}
    nats = {"ours": ours.measured["kl_nats"], "theirs": theirs.measured["kl_nats"]}
    took = f"{ours.processor_seconds:.0f} and {theirs.processor_seconds:.0f} CPU s, theirs without the model's runs"
    rows = [
        Row(
            f"{title}: FVU beside theirs",
            ours.measured["fvu_mean"] / theirs.measured["fvu_mean"],
            0.9,
            at_most=True,
            note=f"{shown}; {took}",
        ),
        # BatchTopK keeps k features on average, and thresholds are what it ends as.
        Row(
            f"{title}: features per token",
            max(layer["l0"] for layer in layers["ours"]),
            1.02 * K,
            at_most=True,
            note="worst layer",
        ),
        Row(f"{title}: dead share", dead["ours"], 0.05, at_most=True, note=f"worst layer; theirs {dead['theirs']:.3f}"),
        Row(
            f"{title}: KL with all MLPs replaced, beside theirs",
            nats["ours"] / nats["theirs"],
            0.8,
            at_most=True,
            note=f"{nats['ours']:.4f} and {nats['theirs']:.4f} nats",
        ),
    ]
    return rows if floors else [replace(row, floor=None) for row in rows]


def some_windows(corpus: Corpus) -> Windows:
    """Give the windows, drawn at random, that hold the tokens that both train on."""
    windows = corpus.windows("train")
    order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(0))
    counted = (windows.bounds[order].diff(dim=1)[:, 0] - 1).cumsum(0)
    return Windows(corpus, windows.bounds[order[: int((counted < TOKENS).sum()) + 1]])


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


def _best_rival(folder: Path, layer: int, passes: int) -> tuple[Dictionary, float]:
    """Train by each recipe, and give the one with the smallest held-out error, with the seconds that it took."""
    found: dict[float, tuple[Dictionary, float]] = {}
    x, out = (torch.from_numpy(np.load(folder / f"{name}_held_out.npy")) for name in ("x", "out"))
    for batch, rate in RECIPES:
        steps = passes * TOKENS // batch
        answer = train_rival(folder, features=FEATURES, k=K, batch=batch, learning_rate=rate, most_steps=steps)
        dictionary = rival_dictionary(folder, layer, K)
        error = float((out - dictionary.decode(dictionary.encode(x), x)).square().sum())
        found[error] = dictionary, answer["seconds"]
    return found[min(found)]
