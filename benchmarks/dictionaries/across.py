"""One transcoder across the layers of the small GPT-2 beside dictionaries of its layers: equal tokens, features and k.

Across layers, the same number of features has more decoders, so what is equal is what a reader looks at: how many
features are active. The control is dictionaries of layers with as many weights, which have more features.
"""

import statistics
from typing import Any, Final

from benchmarks.dictionaries.small_gpt2 import BATCH, FEATURES, N_LAYERS, TOKENS, K, byte_corpus, byte_model
from benchmarks.tables import Row
from hagd.testing import RecordingContext
from hagd_transcoder.corpus_dictionaries import make_plan
from hagd_transcoder.corpus_handlers import CorpusTranscoderConfig
from hagd_transcoder.domain.corpus_evaluation import evaluate_on_corpus
from hagd_transcoder.domain.corpus_training import train_on_corpus
from hagd_transcoder.domain.traced_evaluation import trace_prompts

SEEDS: Final = (0, 1)
_EQUAL: Final[dict[str, Any]] = {
    "n_features": FEATURES,
    "k": K,
    "tokens": TOKENS,
    "batch": BATCH,
    "skip": False,
    "rule": "batch-topk",
}
"""What all kinds have but where they say otherwise."""
_BLOCKS_ACROSS: Final = N_LAYERS + N_LAYERS * (N_LAYERS + 1) // 2
"""Matrices of features by width that encoders and untied decoders are across layers."""
_KINDS: Final[dict[str, dict[str, Any]]] = {
    "per layer": {},
    "per layer, as many weights": {"n_features": FEATURES * _BLOCKS_ACROSS // (2 * N_LAYERS)},
    "across": {"kind": "cross-layer"},
    "across, tied": {"kind": "cross-layer", "decoders": "tied"},
}
_PROMPTS: Final = 64
_SHOWN: Final = ("fvu_mean", "kl_nats", "replacement", "completeness")


def measure_across() -> list[Row]:
    """Train every kind from every seed; give the rows."""
    corpus = byte_corpus()
    model = byte_model(corpus)
    train, held_out = corpus.windows("train"), corpus.windows("held-out")
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in _KINDS}
    for seed in SEEDS:
        for kind, settings in _KINDS.items():
            asked: dict[str, Any] = {**_EQUAL, **settings, "seed": seed}
            config = CorpusTranscoderConfig(**asked)
            trained = train_on_corpus(model, train, make_plan(config, model, corpus), RecordingContext()).dictionaries
            measured = evaluate_on_corpus(model, trained, train, held_out, RecordingContext())
            traced = trace_prompts(model, trained, held_out, _PROMPTS, RecordingContext())
            found[kind].append({**measured, **traced.together})
    rows: list[Row] = []
    for kind, runs in found.items():
        title = f"GPT-2 of {N_LAYERS} layers, k={K}, {TOKENS} tokens, {kind}"
        rows += [_row(f"{title}: {name}", [run[name] for run in runs], "seeds") for name in _SHOWN]
        for measure in ("fvu", "l0", "dead_share"):
            by_layer = zip(*([layer[measure] for layer in run["layers"]] for run in runs), strict=True)
            means = [statistics.mean(values) for values in by_layer]
            rows.append(_row(f"{title}: {measure}", means, "layers"))
    return rows


def _row(measure: str, values: list[float], of: str) -> Row:
    return Row(measure, statistics.mean(values), note=f"{of}: {', '.join(f'{value:.4f}' for value in values)}")
