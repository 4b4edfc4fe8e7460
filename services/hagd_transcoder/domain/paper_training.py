"""Train the autoencoders of arXiv 2601.12879 by the loss that it prints.

    L = sum_l |h_l - f_l D_l|^2 + prediction |f_{l+1} - ReLU(f_l W_P + b_P)|^2 + sparsity |f_l|_1

Streams are taken in units in which each has the variance of a unit vector per token, so that no layer outweighs
another and the two weights mean the same on every model; the units are folded into the weights at the end.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from hagd.artifacts.document import Document
from hagd.corpora.corpus import Batch, Windows
from hagd.dictionaries.history import TrainingHistory
from hagd.dictionaries.paper_autoencoder import PaperAutoencoder
from hagd.errors import NonFiniteError
from hagd.models.language_model import LanguageModel
from hagd.models.trunk import Passage, run_trunk
from hagd.pipeline.contract import StageContext
from hagd.tasks.splits import generator_for
from hagd_transcoder.domain.corpus_plan import SCALE_TOKENS
from hagd_transcoder.domain.corpus_training import windows_of_step
from hagd_transcoder.domain.recording import Recorder, StepMeasures
from hagd_transcoder.domain.saving import SavePoints
from hagd_transcoder.domain.schedules import learning_rate

DEAD_SHARE: Final = 0.1
"""Of all tokens: a feature that is silent for so many counts as dead."""
_WEIGHTS: Final = ("w_enc", "b_enc", "w_dec", "w_next", "b_next")
_MOMENTS: Final = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class PaperPlan:
    """One training run; the config of the stage says what the numbers mean."""

    n_features: int
    k: int
    steps: int
    windows: int
    """Windows per step, which is one run of the model."""
    updates: int
    """Of the weights, per step."""
    learning_rate: float
    prediction: float
    sparsity: float
    checkpoints: int
    seed: int


@dataclass
class _Learner:
    """The autoencoders while they learn."""

    autoencoder: PaperAutoencoder
    optimiser: torch.optim.Adam
    silent: Float[Tensor, "layer d_feature"]
    """Tokens since each feature fired."""

    @staticmethod
    def start(model: LanguageModel, plan: PaperPlan) -> "_Learner":
        """Begin at random."""
        autoencoder = _start(model, plan)
        weights = [it.requires_grad_() for it in _learnt(autoencoder).values()]
        silent = torch.zeros(autoencoder.n_layers, plan.n_features)
        return _Learner(autoencoder, torch.optim.Adam(weights, lr=plan.learning_rate, fused=True), silent)

    def step(self, h: Float[Tensor, "layer token d_model"], plan: PaperPlan, step: int) -> dict[int, StepMeasures]:
        """Take the updates of a step, and give means over its tokens."""
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(step, plan.steps, plan.learning_rate)
        order = torch.randperm(h.shape[1], generator=generator_for(plan.seed, "tokens", step))
        sums = torch.zeros(len(h), 2, dtype=torch.float64)
        for chosen in order.chunk(plan.updates):
            features, loss, errors = printed_loss(self.autoencoder, h[:, chosen], plan.prediction, plan.sparsity)
            if not torch.isfinite(loss):
                raise NonFiniteError(f"the loss became {float(loss)} in step {step}", "lower the learning rate")
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
            active = features.detach() != 0
            self.silent = torch.where(active.any(1), 0, self.silent + len(chosen))
            sums += torch.stack([len(chosen) * errors.detach().double(), active.sum((1, 2)).double()], dim=1)
        dead = (self.silent > DEAD_SHARE * plan.steps * h.shape[1]).double().mean(1)
        rows = torch.cat([sums / len(order), dead[:, None]], dim=1).tolist()
        return {layer: StepMeasures(*row) for layer, row in enumerate(rows)}

    def state(self) -> dict[str, np.ndarray]:
        """Give what a checkpoint must hold, as arrays."""
        arrays = {"silent": self.silent.numpy().copy()}
        for name, weight in _learnt(self.autoencoder).items():
            moments = self.optimiser.state[weight]
            arrays[name] = weight.detach().numpy().copy()
            arrays |= {f"{name}.{moment}": moments[moment].numpy().copy() for moment in _MOMENTS}
            arrays[f"{name}.step"] = np.array([float(moments["step"])])
        return arrays

    @torch.no_grad()
    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Go on from what `state` gave."""
        self.silent = torch.from_numpy(arrays["silent"].copy())
        for name, weight in _learnt(self.autoencoder).items():
            weight.copy_(torch.from_numpy(arrays[name].copy()))
            moments = {moment: torch.from_numpy(arrays[f"{name}.{moment}"].copy()) for moment in _MOMENTS}
            self.optimiser.state[weight] = {"step": torch.tensor(float(arrays[f"{name}.step"][0])), **moments}


def train_as_printed(
    model: LanguageModel,
    windows: Windows,
    plan: PaperPlan,
    context: StageContext,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[PaperAutoencoder, TrainingHistory]:
    """Train the autoencoders of all layers together.

    Raises:
        NonFiniteError: an activation or the loss became NaN or infinite.
        CancelledError: raised by `context.progress`.
    """
    context.progress(0, plan.steps, "finding the size of the residual streams")
    scale, learner = _scales(model, windows, plan), _Learner.start(model, plan)
    recorder = Recorder.start(range(len(scale)), plan.steps)
    first = _restore(context, learner, recorder)
    saving, began = SavePoints.start(plan.steps, plan.checkpoints, clock), clock()
    read, spent = recorder.so_far()
    for step in range(first, plan.steps):
        batch = windows.batch(windows_of_step(len(windows), plan.windows, step, plan.seed))
        streams = streams_of(model, batch) * scale[:, None, None]
        measures = learner.step(streams, plan, step)
        read += streams.shape[1]
        seconds = spent + clock() - began
        recorder.add(step, measures, read, seconds)
        fvu = sum(it.fvu for it in measures.values()) / len(measures)
        context.progress(step + 1, plan.steps, f"unexplained {fvu:.3f} of the stream, {read / seconds:.0f} tokens/s")
        if saving.is_due(step):
            context.save_checkpoint(step + 1, Document({"kind": "paper-training"}, learner.state() | recorder.state()))
    return _folded(learner.autoencoder, scale), recorder.history()


def _restore(context: StageContext, learner: _Learner, recorder: Recorder) -> int:
    """Go on from the latest checkpoint, if there is one, and give the step to start with."""
    if (found := context.load_checkpoint()) is None:
        return 0
    learner.restore(found[1].tensors)
    recorder.restore(found[1].tensors)
    return found[0]


def _learnt(autoencoder: PaperAutoencoder) -> dict[str, Tensor]:
    """Give the weights by name; a model of one layer has nothing to predict."""
    weights = {name: getattr(autoencoder, name) for name in _WEIGHTS}
    return {name: it for name, it in weights.items() if it.numel()}


def printed_loss(
    autoencoder: PaperAutoencoder, h: Float[Tensor, "layer token d_model"], prediction: float, sparsity: float
) -> tuple[Float[Tensor, "layer token d_feature"], Float[Tensor, ""], Float[Tensor, " layer"]]:
    """Give the features of some tokens, the loss that the paper prints, per token, and of it the squared errors."""
    features = torch.stack([autoencoder.encode(layer, it) for layer, it in enumerate(h)])
    rebuilt = torch.stack([autoencoder.decode(layer, it) for layer, it in enumerate(features)])
    errors = (h - rebuilt).square().sum(-1).mean(1)
    loss = errors.sum() + sparsity * features.sum(-1).mean(1).sum()
    for layer in range(autoencoder.n_layers - 1):
        missed = features[layer + 1] - autoencoder.predict(layer, features[layer])
        loss = loss + prediction * missed.square().sum(-1).mean()
    return features, loss, errors


@torch.no_grad()
def streams_of(model: LanguageModel, batch: Batch) -> Float[Tensor, "layer token d_model"]:
    """Give the residual stream behind every block, at the tokens that count."""
    found: list[Tensor] = []

    def visit(_layer: int, passage: Passage) -> None:
        found.append((passage.attended + passage.out)[batch.counted])

    run_trunk(model, batch.tokens, visit)
    streams = torch.stack(found)
    if not torch.isfinite(streams).all():
        raise NonFiniteError("the model gives NaN or infinity on this text", "check the model's weights")
    return streams


def _scales(model: LanguageModel, windows: Windows, plan: PaperPlan) -> Float[Tensor, " layer"]:
    """Give what each stream is multiplied by."""
    count = max(1, min(len(windows), SCALE_TOKENS // windows.corpus.context))
    streams = streams_of(model, windows.batch(windows_of_step(len(windows), count, 0, plan.seed)))
    return (streams - streams.mean(1, keepdim=True)).square().sum(-1).mean(1).clamp_min(1e-30).rsqrt()


def _start(model: LanguageModel, plan: PaperPlan) -> PaperAutoencoder:
    """Give random encoders, decoders that are their transposes, and predictors of little."""
    shape, generator = model.config, generator_for(plan.seed, "paper")
    size = shape.n_layers, shape.d_model, plan.n_features
    w_enc = torch.randn(*size, generator=generator) / shape.d_model**0.5
    return PaperAutoencoder(
        plan.k,
        w_enc,
        torch.zeros(shape.n_layers, plan.n_features),
        functional.normalize(w_enc, dim=1).transpose(1, 2).contiguous(),
        # Not at zero, where the ReLU behind them has no gradient.
        torch.randn(shape.n_layers - 1, plan.n_features, plan.n_features, generator=generator) / plan.n_features,
        torch.zeros(shape.n_layers - 1, plan.n_features),
    )


def _folded(autoencoder: PaperAutoencoder, scale: Float[Tensor, " layer"]) -> PaperAutoencoder:
    """Give the autoencoders of the streams as they are; features keep their units."""
    with torch.no_grad():
        return PaperAutoencoder(
            autoencoder.k,
            autoencoder.w_enc.detach() * scale[:, None, None],
            autoencoder.b_enc.detach(),
            autoencoder.w_dec.detach() / scale[:, None, None],
            autoencoder.w_next.detach(),
            autoencoder.b_next.detach(),
        )
