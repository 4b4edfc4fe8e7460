"""One dictionary while it learns: trainable tensors, and the losses that look at its layer alone."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hagd.dictionaries.dictionary import Dictionary, keep_top
from hagd.models.language_model import ACTIVATIONS, Mlp
from hagd_transcoder.domain.plan import TrainingPlan
from hagd_transcoder.domain.starting import Start, starting_tensors, variance_of

DEAD_AFTER = 100
"""Steps without firing after which a feature counts as dead."""
REVIVED = 64
"""Dead features that may rebuild the error of one token."""
SOFTNESS = 0.1
"""Width of the soft step that counts firings, in units of the encoder's spread."""


@dataclass
class Learner:
    """The state of one layer; `tensors` are leaves that require gradients."""

    layer: int
    activation: str
    plan: TrainingPlan
    tensors: dict[str, Tensor]
    idle: Int[Tensor, " d_feature"]
    """Steps since each feature fired."""
    variance: float
    """Mean squared distance of the MLP's output to its mean, per token: what losses are measured in."""
    smallest_prefix: int
    spread: float
    """Root mean square of the encoder's outputs at the start: how soft the count of firings is."""

    def dictionary(self, k: int | None) -> Dictionary:
        """Give the dictionary made of the live tensors (gradients flow)."""
        get = self.tensors.get
        return Dictionary(
            kind=self.plan.kind,
            layer=self.layer,
            activation=self.activation,
            k=None if k is None or k >= self.plan.n_features else k,
            w_gate=get("w_gate"),
            b_gate=get("b_gate"),
            w_enc=self.tensors["w_enc"],
            b_enc=self.tensors["b_enc"],
            w_dec=self.tensors["w_dec"],
            b_dec=self.tensors["b_dec"],
            w_skip=get("w_skip"),
        )

    def finished(self) -> Dictionary:
        """Give the trained dictionary, detached."""
        tensors = {name: tensor.detach().clone() for name, tensor in self.tensors.items()}
        return replace(self, tensors=tensors).dictionary(self.plan.k)

    def activate(
        self, x: Float[Tensor, "*batch d_model"], k: int
    ) -> tuple[Float[Tensor, "*batch d_feature"], Float[Tensor, "*batch d_feature"]]:
        """Give the encoder's outputs (before the activation of plain encoders) and the features kept by TopK."""
        dictionary = self.dictionary(k)
        if dictionary.w_gate is not None:
            raw = dense = dictionary.pre_activations(x)
        else:
            raw = x @ dictionary.w_enc + dictionary.b_enc
            dense = ACTIVATIONS[self.activation](raw)
        return raw, keep_top(dense, dictionary.w_dec.norm(dim=-1), k)

    def count_idle(self, features: Float[Tensor, "*batch d_feature"]) -> None:
        """Note which features fired in this step."""
        fired = (features.detach() != 0).flatten(0, -2).any(0)
        self.idle = torch.where(fired, 0, self.idle + 1)


def start_learner(
    plan: TrainingPlan,
    mlp: Mlp,
    layer: int,
    inputs: Float[Tensor, "batch pos d_model"],
    generator: torch.Generator,
) -> Learner:
    """Make the learner of one layer; `inputs` of its MLP set the scales and rank the neurons by usage."""
    smallest = plan.smallest_prefix or 2 * count_directions(mlp(inputs))
    x = inputs.flatten(0, 1)
    start = Start(plan.n_features, plan.start, plan.skip, mlp.activation, mlp.w_gate is not None)
    tensors = starting_tensors(start, mlp, layer, x, generator)
    for tensor in tensors.values():
        tensor.requires_grad_()
    idle = torch.zeros(plan.n_features, dtype=torch.int64)
    variance, smallest = variance_of(mlp(x)), min(smallest, plan.n_features)
    learner = Learner(layer, mlp.activation, plan, tensors, idle, variance, smallest, 1.0)
    with torch.no_grad():
        raw, _ = learner.activate(x, plan.n_features)
    learner.spread = max(float(raw.square().mean().sqrt()), 1e-6)
    return learner


def count_directions(out: Float[Tensor, "batch pos d_model"], share: float = 0.95) -> int:
    """Give how many principal directions hold `share` of the output's variance over prompts, median over positions.

    A rectified feature pushes one way only, so a circuit needs about two for each direction.
    """
    counts: list[int] = []
    for at_position in (out - out.mean(0)).double().unbind(1):
        values = torch.linalg.eigvalsh(at_position.T @ at_position).flip(0).clamp_min(0)
        counts.append(int((values.cumsum(0) < share * values.sum()).sum()) + 1)
    return sorted(counts)[len(counts) // 2]


def reconstruction_loss(learner: Learner, error: Float[Tensor, "*batch d_model"]) -> Float[Tensor, ""]:
    """Give the mean squared error per token in units of the output's variance."""
    return error.square().sum(-1).mean() / learner.variance


def nested_loss(
    learner: Learner,
    error: Float[Tensor, "batch pos d_model"],
    features: Float[Tensor, "batch pos d_feature"],
    prefix: int,
) -> Float[Tensor, ""]:
    """Give the loss of the first `prefix` features alone, constant shifts forgiven.

    A shift is the same for a prompt and its donor, so it does no harm in a circuit.
    """
    missing = error + features[..., prefix:] @ learner.tensors["w_dec"][prefix:]
    return reconstruction_loss(learner, missing - missing.mean(0))


def balance_loss(learner: Learner, raw: Float[Tensor, "*batch d_feature"]) -> Float[Tensor, ""]:
    """Give the summed squared shortfall of firing rates below the planned rate, firing counted softly.

    Features that fire alike often leave frequency no say in which of them form the circuit.
    """
    soft = torch.sigmoid(raw / (SOFTNESS * learner.spread)).flatten(0, -2).mean(0)
    return (learner.plan.rate - soft).clamp_min(0).square().sum()


def auxiliary_loss(
    learner: Learner,
    dictionary: Dictionary,
    error: Float[Tensor, "*batch d_model"],
    x: Float[Tensor, "*batch d_model"],
) -> Float[Tensor, ""] | None:
    """Let dead features rebuild the error of the living ones (AuxK); None while nothing is dead."""
    dead = learner.idle > DEAD_AFTER
    if not dead.any():
        return None
    dense = dictionary.pre_activations(x)[..., dead]
    w_dec = dictionary.w_dec[dead]
    kept = keep_top(dense, torch.ones(len(w_dec)), min(REVIVED, len(w_dec)))
    return reconstruction_loss(learner, error.detach() - kept @ w_dec)
