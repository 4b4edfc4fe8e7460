"""What a base model practises: every prompt of an algorithmic task, and which of them are held out.

Held-out prompts are chosen by group (twins share their side), so that the model cannot pass by having seen `b + a`.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from hagd.errors import UnknownNameError
from hagd.tasks import modular_addition, parity, sorting
from hagd.tasks.configs import ModularAdditionConfig, ParityConfig, SortingConfig
from hagd.tasks.splits import generator_for
from hagd.tasks.task import Layout

MOST_LISTS = 60_000
"""Sorting draws this many lists at most; 5 of 10 values has 30,240."""


@dataclass(frozen=True)
class Recipe:
    """How long and how hard to train. Steps and rates are those that reach the gate in seconds on one core."""

    train_share: float
    """Share of the groups that are practised; the rest are held out."""
    learning_rate: float
    weight_decay: float
    """Of matrices only."""
    steps: int
    """Planned steps; up to four times as many are tried before giving up."""
    cooldown: int
    """Steps that follow once the gate is passed, the rate falling to zero."""
    batch: int = 8192
    """Prompts per step; all of them where there are fewer."""
    d_model: int = 64
    n_heads: int = 4


@dataclass(frozen=True)
class Exercise:
    """All prompts with their answers."""

    tokens: Int[Tensor, "prompt pos"]
    answers: Int[Tensor, "prompt answer"]
    layout: Layout
    vocab_size: int
    held_out: Bool[Tensor, " prompt"]
    recipe: Recipe


def exercise_for(name: str, config: Any, seed: int) -> Exercise:
    """Give what the base model of an algorithmic task practises; `seed` decides what is held out.

    Raises:
        UnknownNameError: the task has no base model of its own.
    """
    if name not in EXERCISES:
        raise UnknownNameError(
            f"task {name!r} has no base model to train", f"give a model, or one of the tasks {', '.join(EXERCISES)}"
        )
    return EXERCISES[name](config, seed)


def exercise_modular_addition(config: ModularAdditionConfig, seed: int) -> Exercise:
    """All ordered pairs; the group is the unordered pair. Small moduli need a larger share to be learnable."""
    p = config.modulus
    operands = torch.cartesian_prod(torch.arange(p), torch.arange(p))
    tokens, answers = modular_addition.write_prompts(p, operands)
    group = operands.amin(1) * p + operands.amax(1)
    recipe = Recipe(0.6 if p > 60 else 0.8, 7e-3, 2.0, 80 if p > 60 else 200, 40)
    held_out = _hold_out(group, p * p, recipe.train_share, seed, "modular-addition")
    return Exercise(tokens, answers, modular_addition.LAYOUT, p + 1, held_out, recipe)


def exercise_parity(config: ParityConfig, seed: int) -> Exercise:
    """All strings, each a group of its own."""
    tokens, answers = parity.write_prompts(parity.all_strings(config.n_bits))
    recipe = Recipe(0.6, 3e-3, 1.0, 120, 40, batch=1024)
    held_out = _hold_out(torch.arange(len(tokens)), len(tokens), recipe.train_share, seed, "parity")
    return Exercise(tokens, answers, parity.layout_of(config.n_bits), parity.VOCAB_SIZE, held_out, recipe)


def exercise_sorting(config: SortingConfig, seed: int) -> Exercise:
    """All orders of all sets of values (a sample, where there are too many); the group is the set.

    A set that alone shows a step from one value to the next at some rank is always practised: nothing else could
    teach its answer.
    """
    subsets = torch.tensor(list(itertools.combinations(range(config.n_values), config.length)))
    generator = generator_for(seed, "sorting", "lists")
    lists, group = _orders_of(subsets, generator)
    tokens, answers = sorting.write_prompts(config.n_values, lists)
    recipe = Recipe(0.8, 3e-3, 0.1, 120, 60, batch=512)
    held_out = _hold_out(group, len(subsets), recipe.train_share, seed, "sorting") & ~_shows_alone(subsets)[group]
    return Exercise(tokens, answers, sorting.layout_of(config.length), config.n_values + 1, held_out, recipe)


EXERCISES: Mapping[str, Callable[[Any, int], Exercise]] = {
    "modular-addition": exercise_modular_addition,
    "parity": exercise_parity,
    "sorting": exercise_sorting,
}


def _orders_of(
    subsets: Int[Tensor, "subset slot"], generator: torch.Generator
) -> tuple[Int[Tensor, "list slot"], Int[Tensor, " list"]]:
    """Give all orders of all sets, or random ones where there are more than `MOST_LISTS`; and each list's set."""
    n_subsets, length = subsets.shape
    if n_subsets * math.factorial(length) <= MOST_LISTS:
        orders = torch.tensor(list(itertools.permutations(range(length))))
        return subsets[:, orders].flatten(0, 1), torch.arange(n_subsets).repeat_interleave(len(orders))
    group = torch.randint(n_subsets, (MOST_LISTS,), generator=generator)
    order = torch.rand(MOST_LISTS, length, generator=generator).argsort(dim=1)
    return subsets[group].gather(1, order), group


def _shows_alone(subsets: Int[Tensor, "subset slot"]) -> Bool[Tensor, " subset"]:
    """Mark the sets where some value follows another at a rank as in no other set (5 of 10: 6 after 0 at rank 2)."""
    base = int(subsets.max()) + 1
    steps = (subsets[:, :-1] * base + subsets[:, 1:]).unbind(1)
    counts = [torch.bincount(step)[step] for step in steps]
    return (torch.stack(counts, dim=1) == 1).any(1)


def _hold_out(
    group: Int[Tensor, " prompt"], n_groups: int, train_share: float, seed: int, name: str
) -> Bool[Tensor, " prompt"]:
    draw = torch.rand(n_groups, generator=generator_for(seed, name, "held-out"))
    return draw[group] >= train_share
