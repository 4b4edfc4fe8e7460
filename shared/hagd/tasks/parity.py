"""Parity with running-parity tokens: `b1 ... bn = r1 ... r(n-1)` is answered by r1 ... rn, the parity so far.

Parity asked for at the end alone does not train; written out step by step it does. All n answers are judged under
teacher forcing. Tokens 0 and 1 are bits, 2 is `=`, 3 and 4 are even and odd. The band of D_ood are the strings whose
first bits are all 1: seen as one n-bit operand, the highest values.
"""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from hagd.tasks.configs import ParityConfig
from hagd.tasks.splits import assign_groups, drop_repeated, generator_for, pick_one, repeat_to_floor, sample
from hagd.tasks.task import SPLITS, Layout, PromptBatch, Split, Task

EQUALS, EVEN, ODD = 2, 3, 4
VOCAB_SIZE = 5
SHARES: dict[Split, float] = {"discover": 0.4, "select": 0.2, "verify": 0.4}
BAND_BITS = 3
"""D_ood holds the strings that start with this many ones: an eighth of all."""


def layout_of(n_bits: int) -> Layout:
    """Give the roles: bit1.., eq, parity1..; the answer to position eq + i is the parity of i + 1 bits."""
    bits = tuple(f"bit{i + 1}" for i in range(n_bits))
    parities = tuple(f"parity{i + 1}" for i in range(n_bits - 1))
    return Layout((*bits, "eq", *parities), tuple(range(n_bits, 2 * n_bits)))


def write_prompts(bits: Int[Tensor, "batch bit"]) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch bit"]]:
    """Give the tokens of the prompt with its teacher-forced parities, and all answers."""
    answers = EVEN + bits.cumsum(1) % 2
    equals = torch.full_like(bits[:, :1], EQUALS)
    return torch.cat([bits, equals, answers[:, :-1]], dim=1), answers


def all_strings(n_bits: int) -> Int[Tensor, "string bit"]:
    """Give every bit string; row i is i in binary, highest bit first."""
    numbers = torch.arange(2**n_bits)
    return numbers[:, None] >> torch.arange(n_bits - 1, -1, -1) & 1


def regions_of(config: ParityConfig) -> Int[Tensor, " string"]:
    """Give the split (index in `SPLITS`) of every string."""
    strings = all_strings(config.n_bits)
    band = strings[:, :BAND_BITS].all(1)
    regions = torch.full((len(strings),), SPLITS.index("ood"))
    inside = torch.nonzero(~band).flatten()
    regions[inside] = assign_groups(len(inside), SHARES, generator_for(config.seed, "regions"))
    return regions


def build_parity(config: ParityConfig) -> Task:
    """Build the task: one batch per split; a counterfactual flips one bit and stays in the split's region."""
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
        region = regions == SPLITS.index(split)
        index = sample(torch.nonzero(region).flatten(), limits[split], generator)
        if split == "verify":
            index = repeat_to_floor(index, limits[split])
        batch = _pair_up(config.n_bits, index, region, generator)
        batches[split] = (batch,) if len(batch) else ()
    text = {0: "0", 1: "1", EQUALS: "=", EVEN: "even", ODD: "odd"}
    roles = layout_of(config.n_bits).roles
    return Task("parity", roles, batches, text, "vocabulary", bos=False, minimum_accuracy=0.99)


def _pair_up(
    n_bits: int, index: Int[Tensor, " item"], region: Bool[Tensor, " string"], generator: torch.Generator
) -> PromptBatch:
    """Flip the bit whose turn it is where that stays in the region, else any bit that does; drop the rest."""
    flips = 1 << torch.arange(n_bits - 1, -1, -1)
    allowed = region[index[:, None] ^ flips]
    turn = torch.arange(len(index)) % n_bits
    its_turn = allowed[torch.arange(len(index)), turn]
    chosen = torch.where(its_turn, turn, pick_one(allowed, generator))
    usable = torch.nonzero(chosen >= 0).flatten()
    changed = index[usable] ^ flips[chosen[usable]]
    kept = drop_repeated(torch.stack([index[usable], changed], dim=1))
    strings = all_strings(n_bits)
    clean, answers = write_prompts(strings[index[usable][kept]])
    counterfactual, _ = write_prompts(strings[changed[kept]])
    foils = EVEN + ODD - answers
    groups = tuple("".join(map(str, bits)) for bits in clean[:, :n_bits].tolist())
    return PromptBatch(layout_of(n_bits), clean, counterfactual, answers, foils[:, :, None], groups)
