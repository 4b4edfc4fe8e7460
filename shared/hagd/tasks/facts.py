"""Factual recall: `The capital city of France is` -> Paris, in four relations written with the same six roles.

Relations share one layout, so a donor may come from another relation. The counterfactual is the same template with
another subject. The group is the entity: a country's capital and its language share a split, and so do `hot` and
`cold`. Each split holds a share of every kind of entity; D_ood has its own entities and its own wording. The facts
are well known ones, chosen so that a model of a hundred million parameters knows most of them.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from hagd.errors import InvalidInputError
from hagd.models.tokenizer import Tokenizer
from hagd.tasks.configs import FactsConfig
from hagd.tasks.splits import assign_groups, generator_for
from hagd.tasks.task import SPLITS, Layout, Split, Task
from hagd.tasks.text import TextPair, encode_aligned, is_single_token, last_position_layout, make_text_task

ROLES = ("the", "modifier", "relation", "of", "subject", "is")
SHARES: dict[Split, float] = {"discover": 0.28, "select": 0.2, "verify": 0.34, "ood": 0.18}
"""Of the entities of each kind."""
MOST_COUNTERFACTUALS = 6
"""Different counterfactuals that one prompt may meet where a split needs more pairs than it has prompts."""


@dataclass(frozen=True)
class Relation:
    """Subject-answer pairs and how they are asked for."""

    name: str
    kind: str
    """What the subjects are; the entities of one kind are split together."""
    templates: tuple[str, ...]
    ood_templates: tuple[str, ...]
    facts: str
    """`subject answer` pairs, separated by commas."""


RELATIONS = (
    Relation(
        "capital",
        "country",
        ("The capital city of {} is", "The present capital of {} is"),
        ("The national capital of {} is",),
        "France Paris,Germany Berlin,Italy Rome,Spain Madrid,Japan Tokyo,China Beijing,Russia Moscow,Egypt Cairo,"
        "Greece Athens,Austria Vienna,Ireland Dublin,Portugal Lisbon,Norway Oslo,Sweden Stockholm,Denmark Copenhagen,"
        "Hungary Budapest,Syria Damascus,Cuba Havana,Chile Santiago,Kenya Nairobi,Afghanistan Kabul,"
        "Philippines Manila,Ukraine Kiev,Bulgaria Sofia,Canada Ottawa,Scotland Edinburgh,England London,Wales Cardiff,"
        "Netherlands Amsterdam,Israel Jerusalem,Peru Lima,Iran Tehran,Australia Canberra,Korea Seoul,Belgium Brussels,"
        "Poland Warsaw",
    ),
    Relation(
        "language",
        "country",
        ("The official language of {} is", "The main language of {} is"),
        ("The primary language of {} is",),
        "France French,Germany German,Italy Italian,Spain Spanish,Japan Japanese,Russia Russian,Egypt Arabic,"
        "Austria German,Poland Polish,Portugal Portuguese,Turkey Turkish,Iraq Arabic,Mexico Spanish,Brazil Portuguese,"
        "Argentina Spanish,Cuba Spanish,Chile Spanish,Peru Spanish,Thailand Thai,Israel Hebrew,England English,"
        "Australia English,Colombia Spanish,Syria Arabic,Lebanon Arabic,Jordan Arabic,Netherlands Dutch,"
        "Romania Romanian,Morocco Arabic,Libya Arabic,Vietnam Vietnamese",
    ),
    Relation(
        "symbol",
        "element",
        ("The chemical symbol for {} is",),
        ("The chemical symbol of {} is",),
        "gold Au,silver Ag,iron Fe,lead Pb,copper Cu,tin Sn,mercury Hg,sodium Na,potassium K,hydrogen H,oxygen O,"
        "nitrogen N,magnesium Mg,calcium Ca,zinc Zn,chlorine Cl,sulfur S,phosphorus P,iodine I,uranium U,nickel Ni,"
        "silicon Si,lithium Li,titanium Ti,chromium Cr,manganese Mn",
    ),
    Relation(
        "opposite",
        "word",
        ("The exact opposite of {} is", "The direct opposite of {} is"),
        ("The usual opposite of {} is",),
        "hot cold,big small,up down,good bad,black white,happy sad,fast slow,light dark,hard soft,high low,rich poor,"
        "strong weak,inside outside,true false,love hate,day night,long short,wet dry,north south,east west,war peace,"
        "life death,positive negative,male female,buy sell,thick thin,wide narrow,deep shallow,front back,top bottom,"
        "cheap expensive,near far,alive dead,success failure,friend enemy,summer winter,hero villain,odd even,"
        "minimum maximum,rough smooth,simple complex,public private,absent present,small large,white black,"
        "low high,weak strong,bad good,false true,south north,dark light,slow fast,soft hard,down up,dry wet,"
        "dead alive,sad happy,short long,narrow wide",
    ),
)


@dataclass(frozen=True)
class _Fact:
    relation: Relation
    subject: str
    answer: str

    @property
    def group(self) -> str:
        """The entity; for opposites, the words that belong together."""
        if self.relation.kind != "word":
            return self.subject
        return _FAMILY[self.subject]


def _families() -> dict[str, str]:
    """Name for every word of the opposites the smallest word that it is linked to, directly or not."""
    opposites = next(relation for relation in RELATIONS if relation.kind == "word")
    family: dict[str, str] = {}
    for pair in opposites.facts.split(","):
        linked = {family.get(word, word) for word in pair.split()}
        family |= dict.fromkeys(pair.split(), min(linked))
        family = {word: min(linked) if head in linked else head for word, head in family.items()}
    return family


_FAMILY: Mapping[str, str] = _families()


def build_facts(config: FactsConfig, tokenizer: Tokenizer) -> Task:
    """Build the task for a tokenizer; facts whose subject or answer it splits are left out.

    Raises:
        InvalidInputError: the tokenizer splits the templates' words, or a relation keeps too few facts.
    """
    layout = last_position_layout(tokenizer, ROLES)
    facts = [fact for relation in RELATIONS for fact in _whole_facts(tokenizer, relation)]
    split_of = _split_entities(facts, config.seed)
    limits: dict[Split, int] = {
        "discover": config.n_discover,
        "select": config.n_select,
        "verify": config.n_verify,
        "ood": config.n_ood,
    }
    pairs: dict[Split, list[TextPair]] = {}
    for split in SPLITS:
        members = [fact for fact in facts if split_of[fact.relation.kind, fact.group] == split]
        pairs[split] = _write(config, tokenizer, layout, members, split, limits[split])
    return make_text_task("facts", pairs, tokenizer, minimum_accuracy=config.minimum_accuracy)


def _whole_facts(tokenizer: Tokenizer, relation: Relation) -> list[_Fact]:
    stated = [pair.split() for pair in relation.facts.split(",")]
    whole = [
        _Fact(relation, subject, answer)
        for subject, answer in stated
        if is_single_token(tokenizer, f" {subject}") and is_single_token(tokenizer, f" {answer}")
    ]
    if 2 * len(whole) < len(stated):
        raise InvalidInputError(
            f"the tokenizer keeps only {len(whole)} of {len(stated)} facts of the relation {relation.name!r} whole",
            "this task needs a tokenizer with whole words; write your own prompts as jsonl",
        )
    return whole


def _split_entities(facts: Sequence[_Fact], seed: int) -> dict[tuple[str, str], Split]:
    """Divide the entities of each kind, so that every split knows every relation."""
    split_of: dict[tuple[str, str], Split] = {}
    for kind in dict.fromkeys(fact.relation.kind for fact in facts):
        entities = list(dict.fromkeys(fact.group for fact in facts if fact.relation.kind == kind))
        assigned = assign_groups(len(entities), SHARES, generator_for(seed, "entities", kind)).tolist()
        split_of |= {(kind, entity): SPLITS[number] for entity, number in zip(entities, assigned, strict=True)}
    return split_of


def _write(
    config: FactsConfig, tokenizer: Tokenizer, layout: Layout, members: list[_Fact], split: Split, limit: int
) -> list[TextPair]:
    """Write every fact in every wording, first with one counterfactual each, then with further ones up to `limit`."""
    generator = generator_for(config.seed, "prompts", split)
    asked = [
        (fact, template)
        for fact in members
        for template in (fact.relation.ood_templates if split == "ood" else fact.relation.templates)
    ]
    asked = [asked[i] for i in torch.randperm(len(asked), generator=generator).tolist()]
    others = {
        fact: _shuffled([o for o in members if o.relation is fact.relation and o.answer != fact.answer], generator)
        for fact in members
    }
    turns = (
        (fact, template, others[fact][turn])
        for turn in range(MOST_COUNTERFACTUALS)
        for fact, template in asked
        if turn < len(others[fact])
    )
    return [
        TextPair(
            layout,
            encode_aligned(tokenizer, template.format(fact.subject), layout),
            encode_aligned(tokenizer, template.format(other.subject), layout),
            tokenizer.single_token(f" {fact.answer}"),
            (tokenizer.single_token(f" {other.answer}"),),
            fact.group,
        )
        for fact, template, other in itertools.islice(turns, limit)
    ]


def _shuffled(facts: list[_Fact], generator: torch.Generator) -> list[_Fact]:
    return [facts[i] for i in torch.randperm(len(facts), generator=generator).tolist()]
