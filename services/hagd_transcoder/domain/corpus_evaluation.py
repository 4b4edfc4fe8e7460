"""What is reported about dictionaries on the held-out documents of a corpus.

Errors are pooled over tokens, and their intervals come from drawing whole documents again, because tokens of one
document resemble each other. Position 0 is left out: its activations are unlike all others, and where MLPs are replaced
it keeps its own.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from hagd.attribution.replacement import Replacement
from hagd.corpora.corpus import Batch, Windows
from hagd.dictionaries.cross_layer import CrossLayerTranscoder, Dictionaries
from hagd.dictionaries.least_squares import LeastSquares
from hagd.dictionaries.metrics import recovered_share
from hagd.dictionaries.names import CROSS_LAYER
from hagd.errors import NonFiniteError
from hagd.models.language_model import LanguageModel
from hagd.models.trunk import Passage, run_trunk
from hagd.pipeline.contract import StageContext
from hagd_transcoder.domain.corpus_training import windows_of_step
from hagd_transcoder.domain.examples import ExamplePlan, TopWindows
from hagd_transcoder.domain.intervals import drawn_ratios, interval
from hagd_transcoder.domain.reconstruction import Reconstruction

FITTED_TOKENS: Final = 16_384
"""Training tokens that the linear baselines are fitted on."""
MEASURED_TOKENS: Final = 32_768
"""Held-out tokens that errors are measured on, at most."""
REPLACED_TOKENS: Final = 4_096
"""Held-out tokens on which MLPs are replaced all at once."""
ALONE_TOKENS: Final = 1_024
"""The same one layer at a time."""
BATCH_TOKENS: Final = 2_048
DENSITIES: Final = (-5.0, 0.0)
"""Range of the histogram of how often features fire, log10 of the share of tokens."""
_BINS: Final = 10


@dataclass
class LayerSums:
    """What is summed over tokens for one layer."""

    layer: int
    fit: LeastSquares
    """Of outputs and, beside them, of the dictionary's errors."""
    squares: dict[str, list[Tensor]] = field(default_factory=dict[str, list[Tensor]])
    """By kind of error, its square summed over each window."""
    outputs: list[Tensor] = field(default_factory=list[Tensor])
    """Outputs summed over each window."""
    counts: list[Tensor] = field(default_factory=list[Tensor])
    """Tokens of each window."""
    fired: Int[Tensor, " d_feature"] = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    seen: Bool[Tensor, " d_feature"] = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))
    """Which features fire on training tokens."""
    active: int = 0
    tokens: int = 0
    top: TopWindows | None = None

    def varying(self) -> Float[Tensor, " window"]:
        """Give, summed over each window, the squared distance of outputs to their mean over all windows."""
        outputs = torch.cat(self.outputs)
        mean = outputs.sum(0) / self.tokens
        return torch.cat(self.squares["size"]) - 2 * outputs @ mean + torch.cat(self.counts) * mean.square().sum()


def evaluate_on_corpus(
    model: LanguageModel,
    dictionaries: Dictionaries,
    train: Windows,
    held_out: Windows,
    context: StageContext,
    seed: int = 0,
    examples: ExamplePlan | None = None,
) -> dict[str, Any]:
    """Measure dictionaries as JSON content.

    Raises:
        NonFiniteError: a dictionary gives NaN or infinity.
    """
    context.progress(0, 1, "measuring on held-out documents")
    replacement, layers = Replacement(dictionaries, model), sums_of(dictionaries, model)
    for batch, _ in batches_of(train, FITTED_TOKENS, seed):
        fit_batch(model, replacement, layers, batch)
    maps = {layer: it.fit.solve() for layer, it in layers.items()}
    if examples is not None and examples.features:
        for layer, it in layers.items():
            it.top = TopWindows.draw(it.seen, examples, held_out.corpus.context, seed, layer)
    documents: list[Tensor] = []
    for batch, numbers in batches_of(held_out, MEASURED_TOKENS, seed):
        measure_batch(model, replacement, layers, maps, batch, numbers)
        documents.append(held_out.documents()[numbers])
    of_window = torch.cat(documents)
    alone = _alone(model, replacement, layers, held_out, seed)
    drawn = {
        number: drawn_ratios(torch.cat(it.squares[""]), it.varying(), of_window, seed)
        for number, it in sorted(layers.items())
    }
    found = [
        {**described(dictionaries, number), **_report(layers[number], draws), **alone[number]}
        for number, draws in drawn.items()
    ]
    for number, report in zip(drawn, found, strict=True):
        if (top := layers[number].top) is not None:
            report["examples"] = top.report(held_out)
    return {
        "split": "held-out",
        "n_documents": len(of_window.unique()),
        "n_tokens": next(iter(layers.values())).tokens,
        "fvu_mean": sum(it["fvu"] for it in found) / len(found),
        "fvu_mean_ci95": interval(torch.stack(list(drawn.values())).mean(0)),
        "fvu_worst": max(it["fvu"] for it in found),
        "layers": found,
        **_together(model, replacement, layers, held_out, seed),
    }


def sums_of(dictionaries: Dictionaries, model: LanguageModel) -> dict[int, LayerSums]:
    """Give empty sums for every layer that has features."""
    width = model.config.d_model
    layers = range(dictionaries.n_layers) if isinstance(dictionaries, CrossLayerTranscoder) else dictionaries
    return {layer: LayerSums(layer, LeastSquares.empty(width, 2 * width, model.device)) for layer in layers}


def described(dictionaries: Dictionaries, layer: int) -> dict[str, Any]:
    """Give what a layer's features are, as JSON content."""
    if isinstance(dictionaries, CrossLayerTranscoder):
        return {"layer": layer, "kind": CROSS_LAYER, "n_features": len(dictionaries.b_enc[layer]), "k": dictionaries.k}
    it = dictionaries[layer]
    return {"layer": layer, "kind": it.kind, "n_features": it.n_features, "k": it.k}


def batches_of(windows: Windows, tokens: int, seed: int) -> list[tuple[Batch, Tensor]]:
    """Give drawn windows of about so many tokens in all, in batches, with their numbers."""
    count = max(1, min(len(windows), tokens // windows.corpus.context))
    chosen = windows_of_step(len(windows), count, 0, seed)
    size = max(1, BATCH_TOKENS // windows.corpus.context)
    return [(windows.batch(numbers), numbers) for numbers in chosen.split(size)]


def fit_batch(model: LanguageModel, replacement: Replacement, layers: Mapping[int, LayerSums], batch: Batch) -> None:
    """Take a batch in for the linear baselines."""
    reconstruction = Reconstruction(replacement)

    def visit(layer: int, passage: Passage) -> None:
        if (sums := layers.get(layer)) is not None:
            read, written = passage.x[batch.counted], passage.out[batch.counted]
            features, rebuilt = reconstruction.show(layer, read)
            fires = (features != 0).any(0)
            sums.seen = fires if not len(sums.seen) else sums.seen | fires
            error = written - rebuilt
            sums.fit.add(read, torch.cat([written, error], dim=1))

    run_trunk(model, batch.tokens, visit, upto=max(layers))


def measure_batch(
    model: LanguageModel,
    replacement: Replacement,
    layers: Mapping[int, LayerSums],
    maps: Mapping[int, tuple[Tensor, Tensor]],
    batch: Batch,
    numbers: Int[Tensor, " batch"],
) -> None:
    """Add the errors of a batch; `maps` are the linear baselines."""
    reconstruction = Reconstruction(replacement)
    window = batch.counted.nonzero()[:, 0]

    def per_window(values: Float[Tensor, "token *rest"]) -> Float[Tensor, "batch *rest"]:
        return values.new_zeros(len(batch.tokens), *values.shape[1:]).index_add_(0, window, values)

    def visit(layer: int, passage: Passage) -> None:
        if (sums := layers.get(layer)) is None:
            return
        read, written = passage.x[batch.counted], passage.out[batch.counted].double()
        features, rebuilt = reconstruction.show(layer, read)
        error = written - rebuilt
        weight, bias = maps[layer]
        linear, predicted = (read.double() @ weight + bias).chunk(2, dim=1)
        kinds = {"": error, "linear": written - linear, "nonlinear": error - predicted, "size": written}
        for kind, value in kinds.items():
            sums.squares.setdefault(kind, []).append(per_window(value.square().sum(1)))
        sums.outputs.append(per_window(written))
        sums.counts.append(batch.counted.sum(1))
        if sums.top is not None:
            sums.top.add(features, batch.counted, numbers)
        fired = (features != 0).sum(0)
        sums.fired = fired if not len(sums.fired) else sums.fired + fired
        sums.active += int(fired.sum())
        sums.tokens += len(read)

    run_trunk(model, batch.tokens, visit, upto=max(layers))


def _report(sums: LayerSums, drawn_fvu: Float[Tensor, " draw"]) -> dict[str, Any]:
    total = max(float(sums.varying().sum()), 1e-300)
    share = {kind: float(torch.cat(values).sum()) / total for kind, values in sums.squares.items()}
    if not torch.isfinite(torch.tensor(list(share.values()))).all():
        raise NonFiniteError(
            f"the error of layer {sums.layer} is not finite", "train longer or lower the learning rate"
        )
    return {
        "fvu": share[""],
        "fvu_ci95": interval(drawn_fvu),
        "fvu_linear": share["linear"],
        "fvu_of_nonlinear_error": share["nonlinear"],
        "l0": sums.active / sums.tokens,
        "dead_share": float((sums.fired == 0).double().mean()),
        "density_histogram": density_histogram(sums.fired, sums.tokens),
    }


def density_histogram(fired: Int[Tensor, " d_feature"], tokens: int) -> dict[str, list[float] | list[int]]:
    """Count features by log10 of the share of tokens on which they fire; those that never do are left out."""
    fired = fired.cpu()
    density = (fired[fired > 0].double() / tokens).log10().clamp(*DENSITIES)
    counts = torch.histc(density, _BINS, *DENSITIES)
    return {
        "log10_bounds": torch.linspace(*DENSITIES, _BINS + 1).tolist(),
        "counts": [int(count) for count in counts],
    }


def _together(
    model: LanguageModel, replacement: Replacement, layers: Collection[int], held_out: Windows, seed: int
) -> dict[str, Any]:
    """Give cross-entropy, its recovered share, and KL with dictionaries in place of all their MLPs."""
    sums = torch.zeros(4, dtype=torch.float64)
    tokens = 0
    for batch, _ in batches_of(held_out, REPLACED_TOKENS, seed):
        predicted = _predicted(batch)
        plain = log_probabilities(model, batch, None, ())
        replaced = log_probabilities(model, batch, replacement, layers)
        without = log_probabilities(model, batch, None, layers)
        following = batch.tokens[:, 1:][predicted]
        for number, values in enumerate((plain, replaced, without)):
            sums[number] -= float(values.gather(1, following[:, None]).double().sum())
        sums[3] += divergence(plain, replaced)
        tokens += len(following)
    names = ("cross_entropy", "cross_entropy_replaced", "cross_entropy_without_mlps", "kl_nats")
    means = dict(zip(names, (sums / tokens).tolist(), strict=True))
    return {**means, "cross_entropy_recovered": recovered_share(*(sums[:3] / tokens).tolist())}


def _alone(
    model: LanguageModel, replacement: Replacement, layers: Collection[int], held_out: Windows, seed: int
) -> dict[int, dict[str, float]]:
    """Give KL, cross-entropy, and what that is above the model's own on the same tokens, with one dictionary at a time
    in place of its MLP."""
    ((batch, _), *_) = batches_of(held_out, ALONE_TOKENS, seed)
    plain = log_probabilities(model, batch, None, ())
    following = batch.tokens[:, 1:][_predicted(batch)]
    own = _cross_entropy(plain, following)
    found: dict[int, dict[str, float]] = {}
    for layer in layers:
        replaced = log_probabilities(model, batch, replacement, (layer,))
        entropy = _cross_entropy(replaced, following)
        found[layer] = {
            "kl_nats_alone": divergence(plain, replaced) / len(plain),
            "cross_entropy_alone": entropy,
            "cross_entropy_increase_alone": entropy - own,
        }
    return found


def _cross_entropy(predicted: Float[Tensor, "token vocab"], following: Int[Tensor, " token"]) -> float:
    """Give the mean surprise at the tokens that follow, in nats."""
    return -float(predicted.gather(1, following[:, None]).mean(dtype=torch.float64))


def _predicted(batch: Batch) -> Bool[Tensor, "batch following"]:
    """Mark the positions whose next token is inside the window."""
    return batch.counted[:, 1:]


def log_probabilities(
    model: LanguageModel, batch: Batch, replacement: Replacement | None, replaced: Collection[int]
) -> Float[Tensor, "token vocab"]:
    """Run the model with dictionaries, or nothing, in place of some MLPs; give what follows each token."""
    reconstruction = None if replacement is None else Reconstruction(replacement)

    def visit(layer: int, passage: Passage) -> Tensor:
        instead = torch.zeros_like(passage.out)
        if reconstruction is not None and (layer in replaced or reconstruction.needs(layer)):
            _, instead = reconstruction.show(layer, passage.x)
        return torch.where(batch.counted[..., None], instead, passage.out) if layer in replaced else passage.out

    resid = run_trunk(model, batch.tokens, visit)
    return functional.log_softmax(model.logits(resid[:, :-1][_predicted(batch)]), dim=-1)


def divergence(plain: Float[Tensor, "token vocab"], other: Float[Tensor, "token vocab"]) -> float:
    """Give KL(plain || other) summed over tokens, in nats."""
    return float((plain.exp() * (plain - other)).sum(dtype=torch.float64))
