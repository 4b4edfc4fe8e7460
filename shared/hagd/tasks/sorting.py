"""Sorting: `v1 ... vn = s1 ... s(n-1)` is answered by s1 ... sn, n different values in rising order.

Token v is the value v, token n_values is `=`. All n answers are judged under teacher forcing. The group is the set
of values: orders of one set are twins and share their answers. The band of D_ood is one value in the middle of the
range; no list of the other splits holds it.
"""

import itertools
import math

import torch
from jaxtyping import Int
from torch import Tensor

from hagd.tasks.configs import SortingConfig
from hagd.tasks.splits import assign_groups, drop_repeated, generator_for, pick_one
from hagd.tasks.task import SPLITS, Layout, PromptBatch, Split, Task

SHARES: dict[Split, float] = {"discover": 0.45, "select": 0.25, "verify": 0.3}


def layout_of(length: int) -> Layout:
    """Give the roles: value1.., eq, sorted1..; the answer to position eq + i is the value of rank i + 1."""
    values = tuple(f"value{i + 1}" for i in range(length))
    ranks = tuple(f"sorted{i + 1}" for i in range(length - 1))
    return Layout((*values, "eq", *ranks), tuple(range(length, 2 * length)))


def write_prompts(
    n_values: int, lists: Int[Tensor, "batch slot"]
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch slot"]]:
    """Give the tokens of the prompt with its teacher-forced sorted values, and all answers."""
    answers = lists.sort(dim=1).values
    equals = torch.full_like(lists[:, :1], n_values)
    return torch.cat([lists, equals, answers[:, :-1]], dim=1), answers


def regions_of(config: SortingConfig) -> dict[tuple[int, ...], int]:
    """Give the split (index in `SPLITS`) of every set of values."""
    band = band_value(config)
    subsets = list(itertools.combinations(range(config.n_values), config.length))
    inside = [subset for subset in subsets if band not in subset]
    assigned = assign_groups(len(inside), SHARES, generator_for(config.seed, "regions")).tolist()
    regions = dict.fromkeys(subsets, SPLITS.index("ood"))
    return regions | dict(zip(inside, assigned, strict=True))


def band_value(config: SortingConfig) -> int:
    """Give the value that only D_ood uses, away from both ends of the range where possible."""
    inner = max(1, config.n_values - 2)
    return min(1, config.n_values - 1) + int(torch.randint(inner, (1,), generator=generator_for(config.seed, "band")))


def build_sorting(config: SortingConfig) -> Task:
    """Build the task: one batch per split; a counterfactual replaces one value, the slot taking turns."""
    regions = regions_of(config)
    limits: dict[Split, int] = {
        "discover": config.n_discover,
        "select": config.n_select,
        "verify": config.n_verify,
        "ood": config.n_ood,
    }
    batches: dict[Split, tuple[PromptBatch, ...]] = {}
    for split in SPLITS:
        members = [subset for subset, number in regions.items() if number == SPLITS.index(split)]
        batch = _draw_pairs(config, members, limits[split], generator_for(config.seed, "prompts", split))
        batches[split] = () if batch is None else (batch,)
    text = {value: str(value) for value in range(config.n_values)} | {config.n_values: "="}
    roles = layout_of(config.length).roles
    return Task("sorting", roles, batches, text, "vocabulary", bos=False, minimum_accuracy=0.99)


def _draw_pairs(
    config: SortingConfig, members: list[tuple[int, ...]], limit: int, generator: torch.Generator
) -> PromptBatch | None:
    """Draw lists over the sets of one region and replace one value so that the new set is of the region too."""
    if not members:
        return None
    lists = _draw_lists(torch.tensor(members), limit, generator)
    slot = torch.arange(len(lists)) % config.length
    region = set(members)
    allowed = torch.zeros(len(lists), config.n_values, dtype=torch.bool)
    for row, (values, at) in enumerate(zip(lists.tolist(), slot.tolist(), strict=True)):
        rest = values[:at] + values[at + 1 :]
        for value in range(config.n_values):
            allowed[row, value] = value not in values and tuple(sorted([*rest, value])) in region
    chosen = pick_one(allowed, generator)
    usable = torch.nonzero(chosen >= 0).flatten()
    if len(usable) == 0:
        return None
    changed = lists.clone()
    changed[usable, slot[usable]] = chosen[usable]
    return _write_batch(config, lists[usable], changed[usable], generator)


def _draw_lists(
    subsets: Int[Tensor, "subset slot"], limit: int, generator: torch.Generator
) -> Int[Tensor, "list slot"]:
    """Draw different lists, as even over the sets as their number allows."""
    per_subset = min(-(-2 * limit // len(subsets)), 2 * math.factorial(subsets.shape[1]))
    rows = subsets.repeat(per_subset, 1)
    order = torch.rand(rows.shape, generator=generator).argsort(dim=1)
    rows = rows.gather(1, order)
    kept = drop_repeated(rows)[:limit]
    return rows[kept[torch.randperm(len(kept), generator=generator)]]


def _write_batch(
    config: SortingConfig,
    lists: Int[Tensor, "batch slot"],
    changed: Int[Tensor, "batch slot"],
    generator: torch.Generator,
) -> PromptBatch:
    """Write both sides; the foil of a rank is the counterfactual's value there, or any other value if it is the same.

    Raising one value leaves some ranks as they were; their foil must still differ from the answer.
    """
    clean, answers = write_prompts(config.n_values, lists)
    counterfactual, other = write_prompts(config.n_values, changed)
    shift = torch.randint(1, config.n_values, answers.shape, generator=generator)
    foils = torch.where(other != answers, other, (answers + shift) % config.n_values)
    groups = tuple("<".join(map(str, values)) for values in answers.tolist())
    return PromptBatch(layout_of(config.length), clean, counterfactual, answers, foils[:, :, None], groups)
