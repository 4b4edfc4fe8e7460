"""Indirect object identification: `When Mary and John went to the store, John gave a drink to` -> Mary.

Every word is one token, so that all prompts have fourteen tokens and one layout. The counterfactual names the other
person as the giver, so that the answer swaps with its foil; both orders of the names occur (ABBA and BABA). The
group is a template with a pair of names: a prompt and its counterfactual are twins. D_ood has its own templates,
aligned to the same roles word by word, and its own names.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hagd.errors import InvalidInputError
from hagd.models.tokenizer import Tokenizer
from hagd.tasks.configs import IoiConfig
from hagd.tasks.splits import IN_DISTRIBUTION, generator_for
from hagd.tasks.task import Layout, Split, Task
from hagd.tasks.text import TextPair, encode_aligned, is_single_token, last_position_layout, make_text_task

ROLES = (
    "opening", "name1", "and", "name2", "verb1", "preposition", "the",
    "place", "comma", "subject", "verb2", "article", "object", "to",
)  # fmt: skip
TEMPLATES = (
    "When {first} and {second} went to the {place}, {subject} gave a {object} to",
    "While {first} and {second} sat in the {place}, {subject} handed a {object} to",
)
OOD_TEMPLATES = (
    "Because {first} and {second} met near the {place}, {subject} sent a {object} to",
    "After {first} and {second} walked through the {place}, {subject} offered a {object} to",
)
NAMES = (
    "Mary John James Robert Michael David William Richard Thomas Charles Mark Paul Steven Andrew Kevin Brian George "
    "Edward Peter Anna Sarah Laura Emma Alice Kate Rachel Jane Susan Linda Lisa Nancy Karen"
)
OOD_NAMES = "Helen Daniel Matthew Joseph Henry Adam Simon Eric Scott Martin Lucy Maria Victor Ryan Jason Emily"
PLACES = ("store", "park", "school", "garden", "station", "office", "house", "library", "restaurant", "hospital")
OBJECTS = ("drink", "book", "ball", "gift", "present", "cup", "necklace", "flower")
FEWEST_NAMES = 8
"""Below this the prompts of a split would repeat the same few answers."""


@dataclass(frozen=True)
class _Group:
    template: str
    first: str
    second: str

    @property
    def name(self) -> str:
        return f"{self.template.split()[0]}:{self.first}+{self.second}"


def build_ioi(config: IoiConfig, tokenizer: Tokenizer) -> Task:
    """Build the task for a tokenizer.

    Raises:
        InvalidInputError: the tokenizer splits the templates' words, or keeps too few names whole.
    """
    layout = last_position_layout(tokenizer, ROLES)
    known = _groups(TEMPLATES, _whole_names(tokenizer, NAMES))
    sizes: dict[Split, int] = {"discover": config.n_discover, "select": config.n_select, "verify": config.n_verify}
    order = torch.randperm(len(known), generator=generator_for(config.seed, "groups")).tolist()
    pairs: dict[Split, list[TextPair]] = {}
    start = 0.0
    for split in IN_DISTRIBUTION:
        end = start + len(known) * sizes[split] / sum(sizes.values())
        members = [known[i] for i in order[round(start) : round(end)]]
        pairs[split] = _write(config, tokenizer, layout, members, split, sizes[split])
        start = end
    unknown = _groups(OOD_TEMPLATES, _whole_names(tokenizer, OOD_NAMES))
    shuffled = torch.randperm(len(unknown), generator=generator_for(config.seed, "ood groups")).tolist()
    members = [unknown[i] for i in shuffled]
    pairs["ood"] = _write(config, tokenizer, layout, members, "ood", config.n_ood)
    return make_text_task("ioi", pairs, tokenizer, minimum_accuracy=config.minimum_accuracy)


def _whole_names(tokenizer: Tokenizer, names: str) -> list[str]:
    known = names.split()
    whole = [name for name in known if is_single_token(tokenizer, f" {name}")]
    if len(whole) < FEWEST_NAMES:
        raise InvalidInputError(
            f"the tokenizer keeps only {len(whole)} of {len(known)} names whole, {FEWEST_NAMES} are needed",
            "this task needs a tokenizer with whole-word names; write your own prompts as jsonl",
        )
    return whole


def _groups(templates: Sequence[str], names: Sequence[str]) -> list[_Group]:
    return [_Group(template, *pair) for pair in itertools.combinations(names, 2) for template in templates]


def _write(
    config: IoiConfig, tokenizer: Tokenizer, layout: Layout, members: list[_Group], split: Split, limit: int
) -> list[TextPair]:
    """Write one prompt per group, and further ones (other order, other giver) only where groups run out."""
    generator = generator_for(config.seed, "prompts", split)

    def draw(below: int) -> int:
        return int(torch.randint(below, (1,), generator=generator))

    first_variants = [draw(4) for _ in members]
    pairs: list[TextPair] = []
    for turn, (group, variant) in itertools.product(range(4), zip(members, first_variants, strict=True)):
        if len(pairs) == limit:
            break
        swapped, giver_is_first = divmod((variant + turn) % 4, 2)
        names = (group.second, group.first) if swapped else (group.first, group.second)
        giver, receiver = names if giver_is_first else names[::-1]
        fixed = {
            "first": names[0],
            "second": names[1],
            "place": PLACES[draw(len(PLACES))],
            "object": OBJECTS[draw(len(OBJECTS))],
        }
        pairs.append(
            TextPair(
                layout,
                encode_aligned(tokenizer, group.template.format(subject=giver, **fixed), layout),
                encode_aligned(tokenizer, group.template.format(subject=receiver, **fixed), layout),
                tokenizer.single_token(f" {receiver}"),
                (tokenizer.single_token(f" {giver}"),),
                group.name,
            )
        )
    return pairs
