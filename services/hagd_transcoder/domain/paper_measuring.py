"""What the paper's autoencoders leave unexplained, on held-out documents."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from hagd.corpora.corpus import Batch, Windows
from hagd.dictionaries.metrics import recovered_share
from hagd.dictionaries.names import PAPER
from hagd.dictionaries.paper_autoencoder import PaperAutoencoder
from hagd.models.language_model import LanguageModel
from hagd.models.trunk import Passage, run_trunk
from hagd.pipeline.contract import StageContext
from hagd_transcoder.domain.corpus_evaluation import (
    FITTED_TOKENS,
    MEASURED_TOKENS,
    REPLACED_TOKENS,
    batches_of,
    density_histogram,
    divergence,
)
from hagd_transcoder.domain.intervals import drawn_ratios, interval
from hagd_transcoder.domain.paper_training import streams_of


@torch.no_grad()
def measure_as_printed(
    model: LanguageModel,
    autoencoder: PaperAutoencoder,
    train: Windows,
    held_out: Windows,
    context: StageContext,
    seed: int,
) -> dict[str, Any]:
    """Measure the autoencoders on held-out documents, as JSON content: what they leave of each stream and of the next
    one's features, and the model with every stream replaced by what its features stand for.

    Beside it what the best k directions of each stream leave, as found on training documents (`fvu_linear`): whoever
    keeps k features for each token should explain more than k that are the same for all.
    """
    context.progress(0, 1, "measuring on held-out documents")
    layers = range(autoencoder.n_layers)
    parts: dict[str, list[Tensor]] = {
        name: [] for name in ("error", "linear", "size", "streams", "counts", "documents")
    }
    middle, directions = _best_directions(model, train, autoencoder.k, seed)
    foresight = [_Foresight.start(autoencoder) for _ in layers[:-1]]
    fired = torch.zeros(autoencoder.n_layers, autoencoder.b_enc.shape[1], dtype=torch.int64)
    for batch, numbers in batches_of(held_out, MEASURED_TOKENS, seed):
        streams, window = streams_of(model, batch), batch.counted.nonzero()[:, 0]
        features = torch.stack([autoencoder.encode(layer, streams[layer]) for layer in layers])
        rebuilt = torch.stack([autoencoder.decode(layer, features[layer]) for layer in layers])
        fired += (features != 0).sum(1)
        for layer in layers[:-1]:
            foresight[layer].add(features[layer + 1], autoencoder.predict(layer, features[layer]))
        apart = streams - middle[:, None]
        sums = {
            "error": (streams - rebuilt).double().square().sum(-1),
            "linear": (apart - apart @ directions @ directions.mT).double().square().sum(-1),
            "size": streams.double().square().sum(-1),
        }
        for name, values in sums.items():
            parts[name].append(values.new_zeros(len(layers), len(batch.tokens)).index_add_(1, window, values))
        mean = streams.new_zeros(len(layers), len(batch.tokens), streams.shape[2], dtype=torch.float64)
        parts["streams"].append(mean.index_add_(1, window, streams.double()))
        parts["counts"].append(batch.counted.sum(1))
        parts["documents"].append(held_out.documents()[numbers])
    error, linear, size, summed = (torch.cat(parts[name], dim=1) for name in ("error", "linear", "size", "streams"))
    counts, documents = torch.cat(parts["counts"]), torch.cat(parts["documents"])
    tokens = int(counts.sum())
    mean = summed.sum(1) / tokens
    varying = size - 2 * torch.einsum("lwd,ld->lw", summed, mean) + counts * mean.square().sum(1)[:, None]
    fvu = (error.sum(1) / varying.sum(1)).tolist()
    found: list[dict[str, Any]] = [
        {
            "layer": layer,
            "kind": PAPER,
            "n_features": autoencoder.b_enc.shape[1],
            "k": autoencoder.k,
            "fvu": fvu[layer],
            "fvu_ci95": interval(drawn_ratios(error[layer], varying[layer], documents, seed)),
            "fvu_linear": float(linear[layer].sum() / varying[layer].sum()),
            "unpredicted_of_next": foresight[layer].missed() if layer < len(foresight) else None,
            "l0": float(fired[layer].sum()) / tokens,
            "dead_share": float((fired[layer] == 0).double().mean()),
            "density_histogram": density_histogram(fired[layer], tokens),
        }
        for layer in layers
    ]
    together = {"fvu_mean": sum(fvu) / len(fvu), "fvu_worst": max(fvu), **_replaced(model, autoencoder, held_out, seed)}
    return {"split": "held-out", "n_tokens": tokens, "layers": found, **together}


@dataclass
class _Foresight:
    """How far the features of a layer are foreseen, summed over tokens."""

    errors: float
    squares: float
    sums: Float[Tensor, " d_feature"]
    tokens: int

    @staticmethod
    def start(autoencoder: PaperAutoencoder) -> "_Foresight":
        return _Foresight(0.0, 0.0, torch.zeros(autoencoder.b_enc.shape[1], dtype=torch.float64), 0)

    def add(self, features: Float[Tensor, "token d_feature"], expected: Float[Tensor, "token d_feature"]) -> None:
        """Take in some tokens."""
        seen = features.double()
        self.errors += float((seen - expected).square().sum())
        self.squares += float(seen.square().sum())
        self.sums += seen.sum(0)
        self.tokens += len(seen)

    def missed(self) -> float | None:
        """Give the share of the variance that is not foreseen; None where there is none."""
        varying = self.squares - float(self.sums.square().sum()) / self.tokens
        return self.errors / varying if varying > 0 else None


def _best_directions(
    model: LanguageModel, train: Windows, k: int, seed: int
) -> tuple[Float[Tensor, "layer d_model"], Float[Tensor, "layer d_model direction"]]:
    """Give the mean of each stream, and the k directions in which it varies most."""
    shape = model.config
    total, sums = 0, torch.zeros(shape.n_layers, shape.d_model, dtype=torch.float64)
    squares = torch.zeros(shape.n_layers, shape.d_model, shape.d_model, dtype=torch.float64)
    for batch, _ in batches_of(train, FITTED_TOKENS, seed):
        streams = streams_of(model, batch).double()
        total += streams.shape[1]
        sums += streams.sum(1)
        squares += streams.mT @ streams
    mean = sums / total
    _, vectors = torch.linalg.eigh(squares / total - mean[:, :, None] * mean[:, None])
    return mean.float(), vectors[:, :, -k:].float()


def _replaced(
    model: LanguageModel, autoencoder: PaperAutoencoder, held_out: Windows, seed: int
) -> dict[str, float | None]:
    """Give cross-entropy, its share recovered over streams of zeros, and KL with all streams replaced at once."""
    sums, tokens = torch.zeros(4, dtype=torch.float64), 0
    for batch, _ in batches_of(held_out, REPLACED_TOKENS, seed):
        predicted = batch.counted[:, 1:]
        following = batch.tokens[:, 1:][predicted]

        def run(kind: str, batch: Batch = batch) -> Tensor:
            def visit(layer: int, passage: Passage) -> Tensor | None:
                if kind == "plain":
                    return None
                stream = passage.attended + passage.out
                features = autoencoder.encode(layer, stream)
                instead = autoencoder.decode(layer, features) if kind == "replaced" else torch.zeros_like(stream)
                # What is added to the heads' part makes the stream of it.
                return torch.where(batch.counted[..., None], instead - passage.attended, passage.out)

            resid = run_trunk(model, batch.tokens, visit)
            return functional.log_softmax(model.logits(resid[:, :-1][batch.counted[:, 1:]]), dim=-1)

        plain, replaced, without = run("plain"), run("replaced"), run("without")
        for number, values in enumerate((plain, replaced, without)):
            sums[number] -= float(values.gather(1, following[:, None]).double().sum())
        sums[3] += divergence(plain, replaced)
        tokens += len(following)
    names = ("cross_entropy", "cross_entropy_replaced", "cross_entropy_without_streams", "kl_nats")
    means = dict(zip(names, (sums / tokens).tolist(), strict=True))
    return {**means, "cross_entropy_recovered": recovered_share(*(sums[:3] / tokens).tolist())}
