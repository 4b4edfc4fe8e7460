"""One dictionary while it learns on the sparse path: weights in rows, fused Adam, and the count of idle features.

A feature that is rarely kept learns rarely, and is kept more rarely still, until it is dead. Two things work against
that: dead features learn from the error of the living ones (AuxK), and rare ones are favoured where features compete,
by as much as it takes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hagd.dictionaries.dictionary import Dictionary
from hagd.errors import NonFiniteError
from hagd_transcoder.domain.group import WHOLE, Share
from hagd_transcoder.domain.sparse.dense import dense_code
from hagd_transcoder.domain.sparse.step import Code, Encoder, StepResult, sparse_code, sparse_step, step_of, summed

_ROWS = ("enc", "gate", "dec", "b_enc", "b_gate")
"""Weights of which every feature has a row."""
_DENSE, _DENSE_HALF = 12, 32
"""Whole matrices pay from one feature kept of so many, in single precision and with products in bfloat16."""
DEAD_AFTER: Final = 204_800
"""Tokens, unless said otherwise."""
_NEWEST = 0.05
"""Weight of the newest batch in the moving average."""
_REVIVED = 64
"""Dead features that may rebuild the error of one token."""
_RARE = 0.3
"""Share of the average use below which a feature is favoured more from step to step, and above which less."""
_USE_TOKENS = 5000
"""Tokens over which use is averaged."""
_BALANCE_TOKENS = 256
"""Tokens after which a rare feature's favour has grown by the balance."""
_MOST_FAVOUR = 5.0
"""Natural logarithm of the largest factor."""


@dataclass
class SparseTrainer:
    """The state of one layer's training."""

    weights: dict[str, Tensor]
    """As `sparse_step` takes them; changed in place by every step."""
    encoder: Encoder
    variance: float
    """Mean squared distance of the MLP's output to its mean, per token."""
    auxiliary: float
    """Weight of the loss that lets dead features rebuild what is missing; 0 for none."""
    dead_after: int
    """Tokens without firing after which a feature counts as dead: it is taken to fire on fewer than one of so many."""
    balance: float
    """How fast rare features are favoured where features compete: growth of the logarithm of the factor; 0 for not."""
    optimiser: torch.optim.Adam
    idle: Int[Tensor, " d_feature"]
    """Tokens since each feature fired, that is in updates since the one in which it did."""
    cutoff: Float[Tensor, ""]
    """Moving average of the smallest score that a batch kept: what BatchTopK becomes when there is no batch."""
    use: Float[Tensor, " d_feature"]
    """Moving average of the share of tokens that keep each feature; below zero before the first step."""
    favour: Float[Tensor, " d_feature"]
    """Natural logarithm of the factor by which each feature is favoured."""

    @staticmethod
    def start(
        dictionary: Dictionary,
        variance: float,
        encoder: Encoder,
        *,
        auxiliary: float = 1 / 32,
        dead_after: int = DEAD_AFTER,
        balance: float = 0.0,
    ) -> "SparseTrainer":
        """Begin at the weights of a dictionary, which is left as it is."""
        return SparseTrainer.begin(
            rows_of(dictionary), variance, encoder, auxiliary=auxiliary, dead_after=dead_after, balance=balance
        )

    @staticmethod
    def begin(
        weights: dict[str, Tensor],
        variance: float,
        encoder: Encoder,
        *,
        auxiliary: float,
        balance: float,
        dead_after: int = DEAD_AFTER,
    ) -> "SparseTrainer":
        """Begin at weights as `sparse_step` takes them, which are changed in place from then on."""
        optimiser = torch.optim.Adam(list(weights.values()), lr=1e-3, fused=True)
        idle = torch.zeros(len(weights["dec"]), dtype=torch.int64, device=weights["dec"].device)
        cutoff = torch.full((), -1.0, device=idle.device)
        use, favour = torch.full_like(weights["b_enc"], -1.0), torch.zeros_like(weights["b_enc"])
        return SparseTrainer(
            weights, encoder, variance, auxiliary, dead_after, balance, optimiser, idle, cutoff, use, favour
        )

    def step(
        self,
        x: Float[Tensor, "token d_model"],
        out: Float[Tensor, "token d_model"],
        learning_rate: float,
        *,
        k: int | None = None,
        importance: Float[Tensor, " token"] | None = None,
        balanced: bool = False,
        beside: Mapping[str, Tensor] | None = None,
        share: Share = WHOLE,
    ) -> StepResult:
        """Take one step of the optimiser, and give what it went by.

        Args:
            x: what the MLP reads.
            out: what it writes.
            learning_rate: of this step.
            k: features per token in place of the encoder's, while that is annealed.
            importance: weight of each token, as of `sparse_step`.
            balanced: whether rare features are favoured in this step; towards the end they must win by themselves.
            beside: gradients of another loss, by name of the weights, that count beside those of the squared error.
            share: what these tokens are of the update.

        Raises:
            NonFiniteError: the loss is NaN or infinite; the weights are left as they were.
            WorkerDiedError: a member of the group is gone.
        """
        k, n_tokens = self.encoder.k if k is None else k, share.total(len(x))
        importance = x.new_full((len(x),), 1.0 / n_tokens) if importance is None else importance
        code = self.encode(x, k, balanced=balanced, share=share)
        result = step_of(code, self.weights, x, out, self.variance, importance)
        self.revive(x, result, importance)
        for name, gradient in ({} if beside is None else beside).items():
            result.gradients[name] += gradient
        (whole,) = summed([result], share)
        require_finite(whole.loss)
        self.learn(whole, learning_rate, k, n_tokens, balanced=balanced)
        return whole

    def encode(self, x: Float[Tensor, "token d_model"], k: int, *, balanced: bool, share: Share = WHOLE) -> Code:
        """Give what a batch keeps; arguments as of `step`."""
        encoder = replace(self.encoder, k=k)
        take = dense_code if is_dense(k, len(self.idle), half=encoder.half) else sparse_code
        return take(self.weights, x, encoder, self.favour.exp() if self._favours(balanced) else None, share)

    def revive(
        self, x: Float[Tensor, "token d_model"], result: StepResult, importance: Float[Tensor, " token"]
    ) -> None:
        """Add the gradients by which dead features learn to rebuild the error of the living ones (AuxK)."""
        dead = (self.idle > self.dead_after).nonzero()[:, 0]
        if not self.auxiliary or not len(dead):
            return
        rows = {name: self.weights[name][dead] for name in _ROWS if name in self.weights}
        # What the living ones leave has no bias, and is as wide as decoders are.
        rows["b_dec"] = rows["dec"].new_zeros(rows["dec"].shape[1])
        encoder = replace(self.encoder, k=min(_REVIVED, len(dead)), rule="topk", half=False)
        rebuilt = sparse_step(rows, x, result.error, encoder, self.variance, importance)
        for name in _ROWS:
            if name in rows:
                result.gradients[name].index_add_(0, dead, rebuilt.gradients[name], alpha=self.auxiliary)

    def learn(self, whole: StepResult, learning_rate: float, k: int, n_tokens: int, *, balanced: bool) -> None:
        """Take the step that a whole update of so many tokens says; arguments as of `step`."""
        self.idle = torch.where(whole.fired > 0, 0, self.idle + n_tokens)
        if self._favours(balanced):
            self._rebalance(whole.fired / n_tokens, k, n_tokens)
        before = self.cutoff if self.cutoff >= 0 else torch.full_like(self.cutoff, whole.weakest)
        self.cutoff = before.lerp(torch.full_like(before, whole.weakest), _NEWEST)
        for name, tensor in self.weights.items():
            tensor.grad = whole.gradients[name]
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate
        self.optimiser.step()

    def dictionary(self, layer: int) -> Dictionary:
        """Give the dictionary as it stands, sharing its weights.

        One that was trained by BatchTopK gets the thresholds that keep as many features on average (JumpReLU):
        what a token keeps must not depend on the tokens beside it.
        """
        gate, by_batch = self.weights.get("gate"), self.encoder.rule == "batch-topk"
        return Dictionary(
            kind="transcoder" if gate is None else "gated",
            layer=layer,
            activation=self.encoder.activation,
            k=None if by_batch or self.encoder.k >= len(self.idle) else self.encoder.k,
            w_gate=None if gate is None else gate.T,
            b_gate=self.weights.get("b_gate"),
            w_enc=self.weights["enc"].T,
            b_enc=self.weights["b_enc"],
            w_dec=self.weights["dec"],
            b_dec=self.weights["b_dec"],
            w_skip=self.weights.get("skip"),
            threshold=self.thresholds() if by_batch else None,
        )

    def thresholds(self) -> Float[Tensor, " d_feature"]:
        """Divide the smallest kept score, which is |activation| times decoder norm, by the norms."""
        norms = self.weights["dec"].norm(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
        return self.cutoff.clamp_min(0) / norms

    def forget_cutoff(self) -> None:
        """Begin the average of the smallest kept scores anew, where steps of another kind begin."""
        self.cutoff = torch.full_like(self.cutoff, -1.0)

    def dead_share(self) -> float:
        """Give the share of features that count as dead."""
        return float((self.idle > self.dead_after).double().mean())

    def state(self) -> dict[str, Tensor]:
        """Give all that a checkpoint must hold, by name."""
        found = {"idle": self.idle, "cutoff": self.cutoff, "use": self.use, "favour": self.favour}
        for name, tensor in self.weights.items():
            found[name] = tensor
            found |= {f"{name}.{part}": value for part, value in self.optimiser.state[tensor].items()}
        return found

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self.idle, self.cutoff, self.use, self.favour = (state[it] for it in ("idle", "cutoff", "use", "favour"))
        for name, tensor in self.weights.items():
            tensor.copy_(state[name])
            moments = {part: state[f"{name}.{part}"] for part in ("step", "exp_avg", "exp_avg_sq")}
            self.optimiser.state[tensor] = moments

    def _favours(self, balanced: bool) -> bool:
        return balanced and self.balance > 0

    def _rebalance(self, share: Float[Tensor, " d_feature"], k: int, n_tokens: int) -> None:
        """Favour what was kept by a smaller share of the tokens than `_RARE` of the average a little more."""
        newest = min(1.0, n_tokens / _USE_TOKENS)
        self.use = share if self.use[0] < 0 else self.use.lerp(share, newest)
        growth = self.balance * n_tokens / _BALANCE_TOKENS
        too_rare = torch.sign(_RARE * k / len(share) - self.use)
        self.favour = (self.favour + growth * too_rare).clamp(0, _MOST_FAVOUR)


def require_finite(loss: float) -> None:
    """Refuse to go on from a loss that is no number.

    Raises:
        NonFiniteError: it is NaN or infinite.
    """
    if not math.isfinite(loss):
        raise NonFiniteError(
            f"training dictionaries diverged: the loss is {loss}", "lower the learning rate of the stage"
        )


def is_dense(k: int, n_features: int, *, half: bool) -> bool:
    """Say whether a step works on whole matrices."""
    return k * (_DENSE_HALF if half else _DENSE) >= n_features


def state_of_trainers(trainers: Mapping[int, SparseTrainer]) -> dict[str, np.ndarray]:
    """Give the state of several layers, as arrays of a checkpoint."""
    return {
        f"{layer}.{name}": tensor.numpy(force=True).copy()
        for layer, trainer in trainers.items()
        for name, tensor in trainer.state().items()
    }


def restore_trainers(trainers: Mapping[int, SparseTrainer], arrays: Mapping[str, np.ndarray]) -> None:
    """Let several layers go on from what `state_of_trainers` gave."""
    for layer, trainer in trainers.items():
        prefix = f"{layer}."
        trainer.restore(
            {
                name.removeprefix(prefix): torch.from_numpy(array.copy()).to(trainer.idle.device)
                for name, array in arrays.items()
                if name.startswith(prefix)
            }
        )


def rows_of(dictionary: Dictionary) -> dict[str, Tensor]:
    """Give the weights of a dictionary as `sparse_step` takes them, copied."""
    found: Mapping[str, Tensor | None] = {
        "enc": dictionary.w_enc.T,
        "b_enc": dictionary.b_enc,
        "dec": dictionary.w_dec,
        "b_dec": dictionary.b_dec,
        "gate": None if dictionary.w_gate is None else dictionary.w_gate.T,
        "b_gate": dictionary.b_gate,
        "skip": dictionary.w_skip,
    }
    weights = {
        name: tensor.detach().clone(memory_format=torch.contiguous_format)
        for name, tensor in found.items()
        if tensor is not None
    }
    if "gate" in weights and "b_gate" not in weights:
        weights["b_gate"] = torch.zeros_like(weights["b_enc"])
    return weights
