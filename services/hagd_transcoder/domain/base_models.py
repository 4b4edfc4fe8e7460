"""Train the small transformer whose computation is then explained: one layer, ReLU, trained in seconds.

The artifact is an ordinary Hugging Face `GPT2LMHeadModel`; only the training step is our own. In a one-layer model
everything before the softmax depends on (position, token) alone, so queries, keys and values are computed once per
table entry instead of once per prompt, and the MLP runs at the answer positions only. That is exact (a test compares
with the module's own forward) and several times faster than calling it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel

from hagd.artifacts.document import Document
from hagd.errors import AccuracyGateError, NonFiniteError
from hagd.pipeline.contract import StageContext
from hagd.tasks.splits import generator_for
from hagd_transcoder.domain.exercises import Exercise

GATE = 0.99
"""Share of held-out prompts whose answers must all be right."""
PATIENCE = 4
"""Train up to this many times the planned steps before giving up."""
WARM_UP = 10
CHECK_EVERY = 10
CHECKPOINT_EVERY = 20
_INIT_STD = 0.02


@dataclass(frozen=True)
class BaseModel:
    """A trained (or deliberately untrained) model and how well it knows its task."""

    module: GPT2LMHeadModel
    held_out_accuracy: float
    train_share: float
    """Share of the groups of prompts that it practised."""
    steps: int


@dataclass
class _Progress:
    """The mutable state of a training run, beside weights and optimiser: what a checkpoint must keep."""

    step: int = 0
    passed_at: int = -1
    """Step at which the gate was first passed; -1 before."""


def make_module(exercise: Exercise, seed: int) -> GPT2LMHeadModel:
    """Build the untrained model; weights come from a generator of their own, never the global one."""
    recipe = exercise.recipe
    config = GPT2Config(
        vocab_size=exercise.vocab_size,
        n_positions=exercise.tokens.shape[1],
        n_embd=recipe.d_model,
        n_layer=1,
        n_head=recipe.n_heads,
        activation_function="relu",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        module = GPT2LMHeadModel(config)
    generator = generator_for(seed, "base-model", "weights")
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.dim() == 2:
                std = _INIT_STD / math.sqrt(2) if name.endswith("c_proj.weight") else _INIT_STD
                parameter.normal_(0.0, std, generator=generator)
    return module.eval()


def answer_logits(
    module: GPT2LMHeadModel, tokens: Int[Tensor, "batch pos"], answer_positions: tuple[int, ...]
) -> Float[Tensor, "batch answer vocab"]:
    """Give the logits of a one-layer model at the answer positions, by the table route of the file's docstring."""
    weights = cast("Any", module.transformer)
    block = weights.h[0]
    n_heads = int(cast("Any", module.config).n_head)
    n_pos = tokens.shape[1]
    at = torch.tensor(answer_positions)
    resid = weights.wpe.weight[:n_pos, None] + weights.wte.weight[None]
    entries = tokens + torch.arange(n_pos) * resid.shape[1]
    resid = resid.flatten(0, 1)
    pattern, values = _attention_tables(block, resid, entries, at, n_heads)
    mixed = (pattern[..., None] * values[:, None]).sum(2).flatten(-2)
    here = functional.embedding(entries[:, at], resid) + block.attn.c_proj(mixed)
    here = here + block.mlp.c_proj(functional.relu(block.mlp.c_fc(block.ln_2(here))))
    return module.lm_head(weights.ln_f(here))


def _attention_tables(
    block: Any,
    resid: Float[Tensor, "entry d_model"],
    entries: Int[Tensor, "batch pos"],
    at: Int[Tensor, " answer"],
    n_heads: int,
) -> tuple[Float[Tensor, "batch answer pos head"], Float[Tensor, "batch pos head d_head"]]:
    """Give attention patterns and values, every product of a query and a key computed once per pair of entries."""
    d_model = resid.shape[1]
    read = block.ln_1(resid)
    w_q, w_k, w_v = block.attn.c_attn.weight.split(d_model, dim=1)
    b_q, b_k, b_v = block.attn.c_attn.bias.split(d_model)
    asking, row = torch.unique(entries[:, at], return_inverse=True)
    queries = (read[asking] @ w_q + b_q).unflatten(-1, (n_heads, -1))
    keys = (read @ w_k + b_k).unflatten(-1, (n_heads, -1))
    table = torch.einsum("rhk,ehk->reh", queries, keys) / math.sqrt(d_model // n_heads)
    pair = row[:, :, None] * len(resid) + entries[:, None, :]
    scores = functional.embedding(pair, table.flatten(0, 1))
    future = torch.arange(entries.shape[1])[None, :] > at[:, None]
    pattern = scores.masked_fill(future[..., None], float("-inf")).softmax(dim=2)
    values = functional.embedding(entries, read @ w_v + b_v).unflatten(-1, (n_heads, -1))
    return pattern, values


@torch.no_grad()
def accuracy(module: GPT2LMHeadModel, exercise: Exercise, mask: Bool[Tensor, " prompt"]) -> float:
    """Give the share of the marked prompts whose answers are all the likeliest token; 1 if none is marked."""
    tokens, answers = exercise.tokens[mask], exercise.answers[mask]
    right = [
        (answer_logits(module, part, exercise.layout.answer_positions).argmax(-1) == wanted).all(1)
        for part, wanted in zip(tokens.split(8192), answers.split(8192), strict=True)
        if len(part)
    ]
    return torch.cat(right).double().mean().item() if right else 1.0


def train_base_model(exercise: Exercise, seed: int, context: StageContext) -> BaseModel:
    """Train until the gate is passed, then cool down. Deterministic by `seed`; goes on from a checkpoint.

    Raises:
        AccuracyGateError: four times the planned steps did not pass the gate.
        NonFiniteError: the loss diverged.
    """
    recipe = exercise.recipe
    module = make_module(exercise, seed)
    optimiser = _make_optimiser(module, recipe.weight_decay)
    generator = generator_for(seed, "base-model", "batches")
    progress = _Progress()
    if (saved := context.load_checkpoint()) is not None:
        _restore(saved[1], module, optimiser, generator, progress)
    practised = torch.nonzero(~exercise.held_out).flatten()
    limit = PATIENCE * recipe.steps
    held_out = 0.0
    while not _is_done(progress, recipe.cooldown, limit):
        chosen = practised
        if len(practised) > recipe.batch:
            chosen = practised[torch.randint(len(practised), (recipe.batch,), generator=generator)]
        loss = _take_step(module, optimiser, exercise, chosen, _rate(progress, exercise))
        progress.step += 1
        if progress.passed_at < 0 and progress.step % CHECK_EVERY == 0:
            held_out = accuracy(module, exercise, exercise.held_out)
            if held_out >= GATE:
                progress.passed_at = progress.step
            _report(context, progress, recipe.steps + recipe.cooldown, loss, held_out)
        if progress.passed_at >= 0 and progress.step == progress.passed_at + recipe.cooldown:
            held_out = accuracy(module, exercise, exercise.held_out)
            progress.passed_at = progress.passed_at if held_out >= GATE else -1
        if progress.step % CHECKPOINT_EVERY == 0:
            context.save_checkpoint(progress.step, _capture(module, optimiser, generator, progress))
    held_out = accuracy(module, exercise, exercise.held_out)
    if held_out < GATE:
        raise AccuracyGateError(
            f"the base model answers {held_out:.2%} of the held-out prompts after {progress.step} steps; "
            f"{GATE:.0%} are needed",
            "try another model seed, or a larger version of the task",
        )
    return BaseModel(module, held_out, recipe.train_share, progress.step)


def _is_done(progress: _Progress, cooldown: int, limit: int) -> bool:
    """Stop after a cool-down that kept the gate (one that lost it has reset `passed_at`), or at the limit."""
    if progress.passed_at >= 0:
        return progress.step >= progress.passed_at + cooldown
    return progress.step >= limit


def _rate(progress: _Progress, exercise: Exercise) -> float:
    """Warm up, hold until the gate is passed, then fall to zero."""
    recipe = exercise.recipe
    if progress.passed_at >= 0:
        return recipe.learning_rate * (1 - (progress.step - progress.passed_at) / recipe.cooldown)
    return recipe.learning_rate * min(1.0, (progress.step + 1) / WARM_UP)


def _take_step(
    module: GPT2LMHeadModel,
    optimiser: torch.optim.Optimizer,
    exercise: Exercise,
    chosen: Int[Tensor, " batch"],
    rate: float,
) -> float:
    for group in optimiser.param_groups:
        group["lr"] = rate
    logits = answer_logits(module, exercise.tokens[chosen], exercise.layout.answer_positions)
    loss = functional.cross_entropy(logits.flatten(0, 1), exercise.answers[chosen].flatten())
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    value = loss.item()
    if not math.isfinite(value):
        raise NonFiniteError("the base model's loss is not finite", "try another model seed")
    return value


def _report(context: StageContext, progress: _Progress, planned: int, loss: float, held_out: float) -> None:
    total = max(planned, progress.step + 1)
    context.progress(progress.step, total, f"base model: loss {loss:.3f} nats, held out {held_out:.1%}")


def _make_optimiser(module: nn.Module, weight_decay: float) -> torch.optim.Optimizer:
    matrices = [parameter for parameter in module.parameters() if parameter.dim() == 2]
    vectors = [parameter for parameter in module.parameters() if parameter.dim() < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98), fused=True)


def _state_tensors(module: nn.Module, optimiser: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    """Walk weights and optimiser moments, by name, in a fixed order."""
    for name, parameter in module.named_parameters():
        yield f"weight.{name}", parameter.data
        for key, value in sorted(optimiser.state[parameter].items()):
            yield f"{key}.{name}", value


def _capture(
    module: nn.Module, optimiser: torch.optim.Optimizer, generator: torch.Generator, progress: _Progress
) -> Document:
    tensors: dict[str, np.ndarray] = {name: value.numpy().copy() for name, value in _state_tensors(module, optimiser)}
    tensors["generator"] = generator.get_state().numpy().copy()
    return Document({"step": progress.step, "passed_at": progress.passed_at}, tensors)


def _restore(
    state: Document,
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    generator: torch.Generator,
    progress: _Progress,
) -> None:
    for name, parameter in module.named_parameters():
        parameter.data.copy_(torch.from_numpy(state.tensors[f"weight.{name}"].copy()))
        optimiser.state[parameter] = {
            key: torch.from_numpy(state.tensors[f"{key}.{name}"].copy()) for key in ("step", "exp_avg", "exp_avg_sq")
        }
    generator.set_state(torch.from_numpy(state.tensors["generator"].copy()))
    progress.step = int(state.content["step"])
    progress.passed_at = int(state.content["passed_at"])
