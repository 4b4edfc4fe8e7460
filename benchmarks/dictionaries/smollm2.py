"""SmolLM2-135M: dictionaries of all layers from one run of the model on prose, and eai-sparsify's on some of them.

The rival gets, for each layer, the processor time that a layer cost here, the model's run included; recorded
activations spare it that run. Its width and learning rate are the best of those tried on held-out tokens.
"""

import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from benchmarks.dictionaries.prose import write_prose
from benchmarks.dictionaries.recorded import record_text, rival_dictionary, train_rival
from benchmarks.tables import BUILD, Row
from hagd.corpora.storage import corpus_from_document
from hagd.dictionaries.metrics import fraction_unexplained
from hagd.models.storage import model_from_document
from hagd.testing import RecordingContext
from hagd_transcoder import corpus_dictionaries, corpus_stage

TOKENS: Final = 400_000
K: Final = 64
COMPARED: Final = (2, 9, 15, 28)
RIVALS: Final = ((1536, 1e-3), (4608, 1e-3))
"""Features and learning rate."""
RIVAL_TOKENS: Final = 150_000
HELD_OUT_TOKENS: Final = 16_000
BUDGET_MINUTES: Final = 60


def measure_smollm2() -> list[Row]:
    """Train and compare; give the rows."""
    path = BUILD / "prose.jsonl"
    if not path.exists():
        write_prose(path)
    asked = {"model": {"path": "smollm2"}, "data": [str(path)], "most_tokens": TOKENS + TOKENS // 4}
    prepared = corpus_stage.run({}, asked, RecordingContext())
    config = {"tokens": TOKENS, "k": K, "precision": "bfloat16", "checkpoints": 1}
    wall, processor = time.monotonic(), time.process_time()
    document = corpus_dictionaries.run(prepared, config, RecordingContext())["dictionaries"]
    minutes, seconds = (time.monotonic() - wall) / 60, time.process_time() - processor
    metrics: dict[str, Any] = dict(document.content["metrics"])
    layers: list[dict[str, Any]] = metrics["layers"]
    fvu = {layer["layer"]: layer["fvu"] for layer in layers}
    model, corpus = model_from_document(prepared["model"]), corpus_from_document(prepared["corpus"])
    folder = BUILD / "smollm2-rival"
    record_text(model, corpus.windows("train"), COMPARED, folder, RIVAL_TOKENS, half=True)
    record_text(model, corpus.windows("held-out"), COMPARED, folder, HELD_OUT_TOKENS, suffix="_held_out")
    theirs = {layer: _rival(folder / str(layer), layer, seconds / len(layers)) for layer in COMPARED}
    ratios = {layer: fvu[layer] / theirs[layer] for layer in COMPARED}
    title = f"SmolLM2, {len(layers)} layers"
    return [
        Row(f"{title}: minutes of 2 cores", minutes, BUDGET_MINUTES, at_most=True, note=f"{seconds:.0f} CPU seconds"),
        Row(f"{title}: tokens per second, all layers", TOKENS / (60 * minutes)),
        Row(f"{title}: L0", max(layer["l0"] for layer in layers), K, at_most=True),
        Row(f"{title}: mean FVU on held-out documents", metrics["fvu_mean"], 0.14, at_most=True),
        Row(f"{title}: worst layer", metrics["fvu_worst"], 0.25, at_most=True),
        *(
            Row(
                f"{title}: FVU beside eai-sparsify, layer {layer}",
                ratios[layer],
                0.7,
                at_most=True,
                note=f"{fvu[layer]:.3f} and {theirs[layer]:.3f}",
            )
            for layer in COMPARED
        ),
        Row(f"{title}: KL with all MLPs replaced, nats", metrics["kl_nats"]),
        Row(f"{title}: cross-entropy recovered", metrics["cross_entropy_recovered"]),
        *(
            Row(
                f"layer {layer['layer']}",
                layer["fvu"],
                note=f"95 % {layer['fvu_ci95'][0]:.3f}-{layer['fvu_ci95'][1]:.3f}; best linear map "
                f"{layer['fvu_linear']:.3f}; dead {layer['dead_share']:.3f}; alone {layer['kl_nats_alone']:.4f} nats",
            )
            for layer in layers
        ),
    ]


def _rival(folder: Path, layer: int, seconds: float) -> float:
    x, out = (torch.from_numpy(np.load(folder / f"{name}_held_out.npy")) for name in ("x", "out"))
    found: list[float] = []
    for features, rate in RIVALS:
        train_rival(folder, skip=True, features=features, k=K, learning_rate=rate, seconds=seconds)
        dictionary = rival_dictionary(folder, layer, K)
        found.append(fraction_unexplained(out, dictionary.decode(dictionary.encode(x), x)))
    return min(found)
