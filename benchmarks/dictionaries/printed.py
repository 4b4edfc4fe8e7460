"""The paper's autoencoders on the small GPT-2: what the printed loss leaves unexplained, in the measures of ours."""

import statistics
import time
from dataclasses import replace
from typing import Final

from benchmarks.dictionaries.small_gpt2 import FEATURES, PASSES, TOKENS, K, byte_corpus, byte_model, some_windows
from benchmarks.tables import Row
from hagd.testing import RecordingContext
from hagd_transcoder.domain.paper_measuring import measure_as_printed
from hagd_transcoder.domain.paper_training import train_as_printed
from hagd_transcoder.paper_autoencoders import PaperConfig
from hagd_transcoder.paper_stage import make_plan

PREDICTIONS: Final = (0.0, 0.1, 1.0)
"""Weights of the error in the next layer's features; the paper prints none."""


def measure_printed() -> list[Row]:
    """Train by the printed loss on the tokens that the others read, as often; give the rows, none with a floor."""
    corpus = byte_corpus()
    model, seen = byte_model(corpus), some_windows(corpus)
    rows: list[Row] = []
    for weight in PREDICTIONS:
        config = PaperConfig(n_features=FEATURES, k=K, tokens=PASSES * TOKENS, batch=128, prediction=weight)
        began = time.process_time()
        found, _ = train_as_printed(model, seen, make_plan(config, model, corpus), RecordingContext())
        seconds = time.process_time() - began
        held_out, silent = corpus.windows("held-out"), replace(found, w_dec=0 * found.w_dec)
        measured, control = (
            measure_as_printed(model, it, seen, held_out, RecordingContext(), 0) for it in (found, silent)
        )
        layers = measured["layers"]
        title = f"as printed, F={FEATURES}, k={K}, {PASSES} passes, prediction {weight:g}"
        ahead = ", ".join(f"{layer['unpredicted_of_next']:.3f}" for layer in layers[:-1])
        fvu = ", ".join(f"{layer['fvu']:.3f}" for layer in layers)
        linear = ", ".join(f"{layer['fvu_linear']:.3f}" for layer in layers)
        dead = max(layer["dead_share"] for layer in layers)
        rows += [
            Row(
                f"{title}: FVU of streams",
                measured["fvu_mean"],
                note=f"{fvu}; {K} best directions {linear}; {seconds:.0f} CPU s; dead {dead:.2f}",
            ),
            Row(
                f"{title}: next features not foreseen",
                statistics.mean(layer["unpredicted_of_next"] for layer in layers[:-1]),
                note=ahead,
            ),
            Row(
                f"{title}: KL with all streams replaced",
                measured["kl_nats"],
                note=f"{control['kl_nats']:.2f} nats with streams of zeros",
            ),
        ]
    return rows
