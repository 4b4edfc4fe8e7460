"""Modular addition: the prompt `a b =` is answered by (a + b) mod p, for any modulus p >= 3.

Token v is the number v, token p is `=`. The group is the unordered pair {a, b}: `a b =` and `b a =` are twins.
"""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from hagd.tasks.configs import ModularAdditionConfig
from hagd.tasks.splits import (
    assign_groups,
    drop_repeated,
    generator_for,
    pick_one,
    repeat_to_floor,
    sample,
)
from hagd.tasks.task import SPLITS, Layout, PromptBatch, Split, Task

LAYOUT = Layout(("a", "b", "eq"), (2,))
SHARES: dict[Split, float] = {"discover": 0.55, "select": 0.2, "verify": 0.25}
"""Of the unordered pairs outside the band."""


def write_prompts(
    modulus: int, operands: Int[Tensor, "batch 2"]
) -> tuple[Int[Tensor, "batch 3"], Int[Tensor, "batch 1"]]:
    """Give the tokens of `a b =` and the answers."""
    equals = torch.full_like(operands[:, :1], modulus)
    return torch.cat([operands, equals], dim=1), operands.sum(1, keepdim=True) % modulus


def band_of(config: ModularAdditionConfig) -> Bool[Tensor, " value"]:
    """Mark the operand values that only D_ood uses: a contiguous band, at least one value, wrapping around."""
    p = config.modulus
    width = max(1, round(p * config.band_share))
    start = int(torch.randint(p, (1,), generator=generator_for(config.seed, "band")))
    band = torch.zeros(p, dtype=torch.bool)
    band[(start + torch.arange(width)) % p] = True
    return band


def regions_of(config: ModularAdditionConfig) -> Int[Tensor, "value value"]:
    """Give the split (index in `SPLITS`) of every pair of operands; symmetric."""
    p, band = config.modulus, band_of(config)
    low, high = torch.triu_indices(p, p)
    inside = torch.nonzero(~(band[low] | band[high])).flatten()
    of_group = torch.full_like(low, SPLITS.index("ood"))
    of_group[inside] = assign_groups(len(inside), SHARES, generator_for(config.seed, "regions"))
    regions = torch.empty(p, p, dtype=torch.int64)
    regions[low, high] = of_group
    regions[high, low] = of_group
    return regions


def build_modular_addition(config: ModularAdditionConfig) -> Task:
    """Build the task: one batch per split, counterfactuals with one operand replaced, side alternating."""
    regions = regions_of(config)
    limits: dict[Split, int] = {
        "discover": config.n_discover,
        "select": config.n_select,
        "verify": config.n_verify,
        "ood": config.n_ood,
    }
    batches: dict[Split, tuple[PromptBatch, ...]] = {}
    for split in SPLITS:
        generator = generator_for(config.seed, "prompts", split)
        allowed = regions == SPLITS.index(split)
        index = sample(torch.arange(allowed.numel())[allowed.flatten()], limits[split], generator)
        if split == "verify":
            index = repeat_to_floor(index, limits[split])
        batch = _pair_up(config.modulus, index, allowed, generator)
        batches[split] = (batch,) if len(batch) else ()
    text = {value: str(value) for value in range(config.modulus)} | {config.modulus: "="}
    return Task("modular-addition", LAYOUT.roles, batches, text, "vocabulary", bos=False, minimum_accuracy=0.99)


def _pair_up(
    modulus: int, index: Int[Tensor, " item"], allowed: Bool[Tensor, "value value"], generator: torch.Generator
) -> PromptBatch:
    """Give every prompt a counterfactual of the same region; prompts without one are left out."""
    operands = torch.stack([index // modulus, index % modulus], dim=1)
    changed = operands.clone()
    everyone = torch.arange(len(index))
    for first_choice in (True, False):
        todo = torch.nonzero((changed == operands).all(1)).flatten()
        side = (everyone[todo] + (0 if first_choice else 1)) % 2
        kept = operands[todo, 1 - side]
        candidates = allowed[kept].clone()
        candidates[torch.arange(len(todo)), operands[todo, side]] = False
        chosen = pick_one(candidates, generator)
        found = chosen >= 0
        changed[todo[found], side[found]] = chosen[found]
    usable = torch.nonzero((changed != operands).any(1)).flatten()
    usable = usable[drop_repeated(torch.cat([operands, changed], dim=1)[usable])]
    clean, answers = write_prompts(modulus, operands[usable])
    counterfactual, foils = write_prompts(modulus, changed[usable])
    low_high = operands[usable].sort(dim=1).values.tolist()
    return PromptBatch(
        LAYOUT, clean, counterfactual, answers, foils[:, :, None], tuple(f"{low}+{high}" for low, high in low_high)
    )
