"""All layers of a cross-layer transcoder while they learn: one loss, so none can learn without the others.

What MLPs write is brought to units in which every layer varies alike, or the layers of large outputs would decide which
features are kept; on average the units are the model's, so learning rates mean what they mean elsewhere. `finished`
folds them back into the decoders.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hagd.corpora.corpus import Batch
from hagd.dictionaries.cross_layer import CrossLayerTranscoder
from hagd.models.language_model import LanguageModel
from hagd.models.trunk import Passage, run_trunk
from hagd.tasks.splits import generator_for
from hagd_transcoder.domain.corpus_plan import CorpusPlan
from hagd_transcoder.domain.group import ALONE, Group, Share
from hagd_transcoder.domain.layers import Sums, reading_of, sides_of, updates_of
from hagd_transcoder.domain.recording import StepMeasures
from hagd_transcoder.domain.sparse.joint import joint_steps
from hagd_transcoder.domain.sparse.step import Encoder, summed
from hagd_transcoder.domain.sparse.trainer import SparseTrainer, require_finite
from hagd_transcoder.domain.starting import starting_tensors, variance_of


@dataclass(frozen=True)
class LayersAcross:
    """The features of each layer, with decoders that write to that layer and all later ones."""

    trainers: Mapping[int, SparseTrainer]
    """Of all layers of the model, in order."""
    units: Float[Tensor, " layer"]
    """What 1 is, of what each MLP writes."""
    variance: float
    """Of what every layer writes, in these units."""
    tied: bool
    group: Group = ALONE

    @staticmethod
    def start(model: LanguageModel, batch: Batch, plan: CorpusPlan, group: Group = ALONE) -> "LayersAcross":
        """Begin where the plan says, each layer by itself: later layers are written to as it learns to.

        The batch sets scales and ranks neurons.
        """
        started: list[dict[str, Tensor]] = []
        variances: list[float] = []

        def visit(layer: int, passage: Passage) -> None:
            mlp, generator = model.blocks[layer].mlp, generator_for(plan.seed, "dictionary", layer)
            started.append(starting_tensors(plan.start, mlp, layer, passage.x[batch.counted], generator))
            variances.append(variance_of(passage.out[batch.counted]))

        run_trunk(model, batch.tokens, visit, half=plan.half)
        tied, variance = plan.decoders == "tied", sum(variances) / len(variances)
        units = (torch.tensor(variances, device=model.device) / variance).sqrt()
        encoder = Encoder(plan.start.activation, plan.k, plan.rule, half=plan.half)
        trainers: dict[int, SparseTrainer] = {}
        for layer, tensors in enumerate(started):
            later = len(started) - layer - 1
            trainers[layer] = SparseTrainer.begin(
                _rows(tensors, float(units[layer]), 0 if tied else later),
                # A tied row answers for the mean of the errors of its layers, once for each of them.
                variance / (later + 1) if tied else variance,
                encoder,
                auxiliary=plan.auxiliary,
                dead_after=plan.dead_after,
                balance=plan.balance,
            )
        return LayersAcross(trainers, units, variance, tied, group)

    def step(self, model: LanguageModel, batch: Batch, plan: CorpusPlan, step: int) -> dict[int, StepMeasures]:
        read: list[Tensor] = []
        written: list[Tensor] = []
        reading = reading_of(batch, self.group)

        def visit(layer: int, passage: Passage) -> None:
            x, out = sides_of(layer, passage, reading.own)
            read.append(x)
            written.append(out / self.units[layer])

        run_trunk(model, reading.own.tokens, visit, half=plan.half)
        sums, trainers = {layer: Sums() for layer in self.trainers}, list(self.trainers.values())
        for tokens, n_tokens, rate, k, balanced in updates_of(plan, step, reading):
            x, out, share = [it[tokens] for it in read], [it[tokens] for it in written], Share(self.group, n_tokens)
            codes = [it.encode(there, k, balanced=balanced, share=share) for it, there in zip(trainers, x, strict=True)]
            weights = [it.weights for it in trainers]
            results = joint_steps(codes, weights, x, out, self.variance, tied=self.tied, share=share)
            for trainer, there, result in zip(trainers, x, results, strict=True):
                trainer.revive(there, result, there.new_full((len(there),), 1.0 / n_tokens))
            results = summed(results, share)
            require_finite(sum(result.loss for result in results))
            for layer, result in enumerate(results):
                self.trainers[layer].learn(result, rate, k, n_tokens, balanced=balanced)
                sums[layer].add(result, plan, reading.n_tokens)
        return {layer: sums[layer].measures(trainer) for layer, trainer in self.trainers.items()}

    def finished(self) -> CrossLayerTranscoder:
        """Give the transcoder as it stands, in the units of the model.

        TopK compares activation times norm in the units of training; so the norms move into the encoders, which leaves
        activations to compare.
        """
        encoder, by_batch = self.trainers[0].encoder, self.trainers[0].encoder.rule == "batch-topk"
        k = None if by_batch or encoder.k >= len(self.trainers[0].idle) else encoder.k
        w_enc, b_enc, w_dec = list[Tensor](), list[Tensor](), list[Tensor]()
        for layer, trainer in self.trainers.items():
            weights, units = trainer.weights, self.units[layer:, None, None]
            norms = weights["dec"].norm(dim=1) if k is not None else torch.ones_like(weights["b_enc"])
            rows = weights["dec"] / norms.where(norms > 0, 1)[:, None]
            blocks = rows[None] if self.tied else rows.unflatten(1, (len(units), -1)).transpose(0, 1)
            w_enc.append(weights["enc"].T * norms)
            b_enc.append(weights["b_enc"] * norms)
            w_dec.append(blocks * units)
        own = [it.weights for it in self.trainers.values()]
        skips = tuple(it["skip"] * unit for it, unit in zip(own, self.units, strict=True)) if "skip" in own[0] else None
        return CrossLayerTranscoder(
            activation=encoder.activation,
            w_enc=tuple(w_enc),
            b_enc=tuple(b_enc),
            w_dec=tuple(w_dec),
            b_dec=tuple(it["b_dec"] * unit for it, unit in zip(own, self.units, strict=True)),
            w_skip=skips,
            threshold=tuple(it.thresholds() for it in self.trainers.values()) if by_batch else None,
            k=k,
        )


def _rows(tensors: Mapping[str, Tensor], unit: float, later: int) -> dict[str, Tensor]:
    """Give weights as a step takes them, with zeros for so many later layers in the rows of the decoder.

    There is no gate: encoders across layers are plain.
    """
    dec = tensors["w_dec"] / unit
    found = {
        "enc": tensors["w_enc"].T.contiguous(),
        "b_enc": tensors["b_enc"].clone(),
        "dec": torch.cat([dec, dec.new_zeros(len(dec), later * dec.shape[1])], dim=1),
        "b_dec": tensors["b_dec"] / unit,
    }
    return found | ({"skip": tensors["w_skip"] / unit} if "w_skip" in tensors else {})
