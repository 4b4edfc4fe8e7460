"""How good a dictionary is, as pure functions of tensors. Lower error is not better circuits: report both."""

from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional


def fraction_unexplained(out: Float[Tensor, "token d_model"], reconstruction: Float[Tensor, "token d_model"]) -> float:
    """Give FVU: squared error over squared distance to the mean output of the same tokens; 0 for constant outputs
    that are met exactly, infinity for constant outputs that are not."""
    error = float((out - reconstruction).double().square().sum())
    total = float((out - out.mean(0)).double().square().sum())
    return error / total if total > 0 else (0.0 if error == 0 else float("inf"))


def mean_active(features: Float[Tensor, "token d_feature"]) -> float:
    """Give L0: the mean number of active features per token."""
    return float((features != 0).sum(-1).double().mean())


def fires(features: Float[Tensor, "token d_feature"]) -> Bool[Tensor, " d_feature"]:
    """Mark features that are active on at least one token."""
    return (features != 0).any(0)


def recovered_share(plain: float, replaced: float, without: float) -> float | None:
    """Give the share of the loss that MLPs are worth which their dictionaries recover.

    Args:
        plain, replaced, without: cross-entropy of the model, with dictionaries in place of the MLPs, and with the
            MLPs' outputs zeroed; nats.

    Returns:
        1 - (replaced - plain) / (without - plain), or None where the MLPs are worth nothing.
    """
    worth = without - plain
    return None if worth <= 0 else 1 - (replaced - plain) / worth


def cross_entropy(logits: Float[Tensor, "batch answer vocab"], answers: Int[Tensor, "batch answer"]) -> float:
    """Give the mean cross-entropy of the answers, in nats."""
    return float(functional.cross_entropy(logits.flatten(0, 1).double(), answers.flatten()))


def divergence(reference: Float[Tensor, "batch answer vocab"], logits: Float[Tensor, "batch answer vocab"]) -> float:
    """Give the mean KL(reference || other) over prompts and answers, in nats."""
    p = functional.log_softmax(reference.flatten(0, 1).double(), dim=-1)
    q = functional.log_softmax(logits.flatten(0, 1).double(), dim=-1)
    return float(functional.kl_div(q, p, log_target=True, reduction="batchmean").clamp_min(0))
