"""IOI and facts with a hand-made tokenizer: aligned roles, swapped answers, disjoint splits, clear refusals."""

import pytest
import torch

from hagd.errors import InvalidInputError
from hagd.models.tokenizer import Tokenizer
from hagd.tasks import facts, ioi
from hagd.tasks.configs import FactsConfig, IoiConfig
from hagd.tasks.donors import check_donors
from hagd.tasks.task import SPLITS, PromptBatch, Task
from unit.tasks.words import word_tokenizer, words_of

IOI_WORDS = words_of(
    *ioi.TEMPLATES, *ioi.OOD_TEMPLATES, ioi.NAMES, ioi.OOD_NAMES, " ".join(ioi.PLACES), " ".join(ioi.OBJECTS)
)
FACT_WORDS = [
    word
    for relation in facts.RELATIONS
    for text in (*relation.templates, *relation.ood_templates, relation.facts.replace(",", " "))
    for word in words_of(text)
]


def texts(task: Task, rows: torch.Tensor) -> list[str]:
    return ["".join(task.token_text[token] for token in row) for row in rows.tolist()]


def only(task: Task, split: str) -> PromptBatch:
    (batch,) = task.batches[split]  # type: ignore[index]  # one layout
    return batch


@pytest.fixture(scope="module")
def ioi_task() -> Task:
    return ioi.build_ioi(IoiConfig(), word_tokenizer(IOI_WORDS))


@pytest.fixture(scope="module")
def facts_task() -> Task:
    return facts.build_facts(FactsConfig(), word_tokenizer(FACT_WORDS))


@pytest.mark.parametrize("name", ["ioi_task", "facts_task"])
def test_no_prompt_and_no_group_of_one_split_occurs_in_another(name: str, request: pytest.FixtureRequest) -> None:
    task: Task = request.getfixturevalue(name)
    prompts = [set(texts(task, torch.cat([only(task, s).clean, only(task, s).counterfactual]))) for s in SPLITS]
    groups = [set(only(task, split).groups) for split in SPLITS]
    assert sum(map(len, prompts)) == len(set.union(*prompts))
    assert sum(map(len, groups)) == len(set.union(*groups))


@pytest.mark.parametrize("name", ["ioi_task", "facts_task"])
def test_d_verify_holds_two_hundred_pairs_and_every_prompt_has_donors(
    name: str, request: pytest.FixtureRequest
) -> None:
    task: Task = request.getfixturevalue(name)
    assert task.size("verify") >= 200
    check_donors(task)


def test_the_giver_changes_and_answer_and_foil_swap(ioi_task: Task) -> None:
    assert len(ioi_task.roles) == 14
    for split in SPLITS:
        batch = only(ioi_task, split)
        sentences = zip(texts(ioi_task, batch.clean), texts(ioi_task, batch.counterfactual), strict=True)
        for (clean, other), (answer,), ((foil,),) in zip(
            sentences, batch.answers.tolist(), batch.foils.tolist(), strict=True
        ):
            receiver, giver = ioi_task.token_text[answer], ioi_task.token_text[foil]
            assert clean.count(giver) == 2
            assert clean.count(receiver) == 1
            assert other.count(receiver) == 2
        where = (batch.clean != batch.counterfactual).nonzero()[:, 1]
        assert (where == batch.layout.roles.index("subject")).all()


def test_both_orders_of_the_names_and_both_templates_occur(ioi_task: Task) -> None:
    batch = only(ioi_task, "verify")
    answer_first = (batch.clean[:, 1] == batch.answers[:, 0]).float().mean()
    assert 0.35 < answer_first < 0.65
    openings = torch.unique(batch.clean[:, 0], return_counts=True)[1]
    assert len(openings) == 2
    assert openings.min() > 60


def test_d_ood_of_ioi_has_its_own_names_and_templates(ioi_task: Task) -> None:
    def seen(split: str) -> tuple[set[int], set[int]]:
        batch = only(ioi_task, split)
        return set(batch.answers.flatten().tolist()), set(batch.clean[:, 0].tolist())

    names, openings = seen("ood")
    for split in ("discover", "select", "verify"):
        other_names, other_openings = seen(split)
        assert not names & other_names
        assert not openings & other_openings


def test_more_prompts_than_groups_give_the_other_orders_of_a_group() -> None:
    task = ioi.build_ioi(IoiConfig(n_discover=1500), word_tokenizer(IOI_WORDS))
    batch = only(task, "discover")
    assert len(batch) == 1500
    assert len(set(batch.groups)) < 1000


def test_a_beginning_of_sequence_token_is_a_role_of_its_own() -> None:
    task = ioi.build_ioi(IoiConfig(), word_tokenizer(IOI_WORDS, bos=True))
    batch = only(task, "select")
    assert task.bos
    assert batch.layout.roles[:2] == ("bos", "opening")
    assert batch.layout.answer_positions == (14,)


def test_a_tokenizer_that_splits_the_template_is_refused_with_the_pieces() -> None:
    tokenizer = word_tokenizer([word for word in IOI_WORDS if word != "went"])
    with pytest.raises(InvalidInputError, match=r"is 18 tokens \(.*\| \|w\|e\|n\|t\|.*14 roles"):
        ioi.build_ioi(IoiConfig(), tokenizer)


def test_a_tokenizer_that_splits_the_names_is_refused_with_their_number() -> None:
    tokenizer = word_tokenizer([word for word in IOI_WORDS if word not in ioi.NAMES.split()[5:]])
    with pytest.raises(InvalidInputError, match="keeps only 5 of 32 names whole"):
        ioi.build_ioi(IoiConfig(), tokenizer)


def test_a_fact_keeps_its_wording_and_relation_in_the_counterfactual(facts_task: Task) -> None:
    for split in SPLITS:
        batch = only(facts_task, split)
        where = (batch.clean != batch.counterfactual).nonzero()[:, 1]
        assert (where == batch.layout.roles.index("subject")).all()
        assert (batch.answers != batch.foils[..., 0]).all()


def test_every_split_knows_every_relation(facts_task: Task) -> None:
    for split in SPLITS:
        sentences = " ".join(texts(facts_task, only(facts_task, split).clean))
        assert all(word in sentences for word in ("capital", "language", "symbol", "opposite"))


def test_a_stated_fact_is_a_prompt_with_its_answer(facts_task: Task) -> None:
    stated = {
        (template.format(subject), f" {answer}")
        for relation in facts.RELATIONS
        for template in (*relation.templates, *relation.ood_templates)
        for subject, answer in (pair.split() for pair in relation.facts.split(","))
    }
    for split in SPLITS:
        batch = only(facts_task, split)
        asked = zip(texts(facts_task, batch.clean), texts(facts_task, batch.answers), strict=True)
        assert set(asked) <= stated


def test_opposites_that_share_a_word_share_a_group(facts_task: Task) -> None:
    by_word: dict[str, set[str]] = {}
    for split in SPLITS:
        batch = only(facts_task, split)
        for text, answer, group in zip(
            texts(facts_task, batch.clean), texts(facts_task, batch.answers), batch.groups, strict=True
        ):
            if "opposite" in text:
                for word in (text.split()[4], answer.strip()):
                    by_word.setdefault(word, set()).add(group)
    assert all(len(groups) == 1 for groups in by_word.values())


def test_facts_need_a_tokenizer_with_whole_words() -> None:
    countries = [pair.split()[0] for pair in facts.RELATIONS[0].facts.split(",")]
    tokenizer: Tokenizer = word_tokenizer([word for word in FACT_WORDS if word not in countries[3:]])
    with pytest.raises(InvalidInputError, match="keeps only 3 of 36 facts of the relation 'capital'"):
        facts.build_facts(FactsConfig(), tokenizer)
