"""How dictionaries were trained on text and what became of them, as one SVG file that stands alone."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float

from hagd.artifacts.folders import write_whole
from hagd.dictionaries.history import TrainingHistory, history_from_document
from hagd.dictionaries.names import PAPER
from hagd.extraction.charts import Axis, Chart, colours, page
from hagd.extraction.opened import OpenRun
from hagd.extraction.roles import DICTIONARIES, TRAINING

REPORT: Final = "training.svg"
_PLAIN: Final = "#9ca3af"
_OURS: Final = "#2a788e"


def write_report(run: OpenRun) -> Path:
    """Write the report of a run that trained on text into its folder.

    Raises:
        RunError: the run has no dictionaries yet.
        CorruptArtifactError: what it made is damaged.
        StoreFullError, UnavailableError: the file cannot be written.
    """
    history = history_from_document(run.document(TRAINING))
    path = run.root / REPORT
    write_whole(draw_training(history, run.data(DICTIONARIES)["metrics"]), path)
    return path


def draw_training(history: TrainingHistory, metrics: Mapping[str, Any]) -> str:
    """Draw training curves and what was measured on held-out text.

    Args:
        history: of the training.
        metrics: of its dictionaries: `model`, `fvu_mean`, and by layer `fvu`, `fvu_linear` and `density_histogram`.

    Returns:
        The text of an SVG file. Lines are coloured by layer, from the first (dark) to the last (light).
    """
    layers: Sequence[Mapping[str, Any]] = metrics["layers"]
    charts = [
        _curves("Unexplained variance of the batches", history, history.fvu, log=True),
        _curves("Active features per token", history, history.l0),
        _curves("Dead features, share", history, history.dead_share),
        _curves("Tokens per second", history, history.tokens_per_second()),
        _densities(layers),
        _by_layer(layers),
    ]
    if len(history.kl_nats):
        charts.append(_divergence(history))
    name = str(metrics.get("model", {}).get("source", {}).get("name", "a model"))
    first, last = layers[0]["layer"], layers[-1]["layer"]
    lines = [
        f"{len(layers)} layers, {first} (dark) to {last} (light); {int(history.tokens[-1]):,} tokens; "
        f"k {metrics['plan']['k']} of {layers[0]['n_features']} features",
        f"held-out text: unexplained {metrics['fvu_mean']:.4f} on average, {metrics['fvu_worst']:.4f} in the worst "
        f"layer; {metrics['kl_nats']:.3f} nats with all MLPs replaced",
    ]
    return page(f"Dictionaries of {name}", lines, charts)


def _curves(
    title: str, history: TrainingHistory, values: Float[np.ndarray, "stretch layer"], *, log: bool = False
) -> Chart:
    tokens = history.tokens.tolist()
    x = Axis.over("tokens read", tokens, zero=True)
    chart = Chart(title, x, Axis.over("", values.flatten().tolist(), log=log, zero=True))
    chart.mark()
    for layer, column, colour in zip(history.layers, values.T, colours(len(history.layers)), strict=True):
        chart.line(tokens, column.tolist(), colour, f"layer {layer}, {column[-1]:.4g} at the end")
    return chart


def _divergence(history: TrainingHistory) -> Chart:
    """Draw the one line of the stretches in which dictionaries learnt together."""
    tokens, values = history.tokens[-len(history.kl_nats) :].tolist(), history.kl_nats.tolist()
    x = Axis.over("tokens read", history.tokens.tolist(), zero=True)
    chart = Chart("KL of the batches, all MLPs replaced", x, Axis.over("nats", values, zero=True))
    chart.mark()
    chart.line(tokens, values, _OURS, f"fine-tuning, {values[-1]:.4g} at the end")
    return chart


def _densities(layers: Sequence[Mapping[str, Any]]) -> Chart:
    """Draw one line of bin counts for each layer."""
    shares = [[count / it["n_features"] for count in it["density_histogram"]["counts"]] for it in layers]
    bounds: Sequence[float] = layers[0]["density_histogram"]["log10_bounds"]
    x = Axis("share of held-out tokens on which a feature fires, log10", bounds[0], bounds[-1])
    highest = [max(heights) for heights in shares]
    chart = Chart("How often features fire", x, Axis.over("share of features", highest, zero=True))
    chart.mark()
    middles = [(low + high) / 2 for low, high in pairwise(bounds)]
    for layer, heights, colour in zip(layers, shares, colours(len(layers)), strict=True):
        chart.line(middles, heights, colour, f"layer {layer['layer']}, {layer['dead_share']:.3g} of them never")
    return chart


def _by_layer(layers: Sequence[Mapping[str, Any]]) -> Chart:
    """Draw two bars for each layer: the best linear map, and the dictionary in front of it."""
    numbers = [it["layer"] for it in layers]
    shown = [value for it in layers for value in (it["fvu"], it["fvu_linear"])]
    x = Axis("layer", 0, len(layers))
    plain = "k directions" if layers[0].get("kind") == PAPER else "linear map"
    chart = Chart("Unexplained variance on held-out text", x, Axis.over(f"grey: best {plain}", shown, zero=True))
    for place, it in enumerate(layers):
        layer = f"layer {it['layer']}"
        chart.bar(place + 0.1, place + 0.9, it["fvu_linear"], _PLAIN, f"{layer}, {plain} {it['fvu_linear']:.4g}")
        chart.bar(place + 0.25, place + 0.75, it["fvu"], _OURS, f"{layer}, dictionary {it['fvu']:.4g}")
    step = -(-len(layers) // 12)
    chart.mark([(place + 0.5, str(numbers[place])) for place in range(0, len(layers), step)])
    return chart
