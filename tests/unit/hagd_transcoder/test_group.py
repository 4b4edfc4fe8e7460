"""A group of processes learns what one learns: its members here are threads, which speak with each other as processes.

Sums are of the same numbers in another order, so weights are the same but for rounding.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor
from torch.distributed import HashStore

from hagd.errors import InvalidInputError
from hagd.models.language_model import LanguageModel
from hagd.testing import RecordingContext
from hagd_transcoder.corpus_dictionaries import make_plan, memory_of
from hagd_transcoder.corpus_handlers import STAGE, read_config
from hagd_transcoder.domain.corpus_training import Trained, train_on_corpus
from hagd_transcoder.domain.group import ALONE, Group, Share
from hagd_transcoder.domain.sparse.step import Encoder
from hagd_transcoder.domain.sparse.trainer import SparseTrainer
from hagd_transcoder.gloo_group import GlooGroup
from unit.hagd_transcoder.test_corpus_training import MODEL as GATED
from unit.hagd_transcoder.test_corpus_training import corpus
from unit.hagd_transcoder.test_layers_across import MODEL as PLAIN

T = TypeVar("T")
SHORT: dict[str, Any] = {"n_features": 97, "k": 3, "k_start": 11, "batch": 60, "buffer": 120, "tokens": 1200}


def together(size: int, do: Callable[[Group], T]) -> list[T]:
    """Give what each member of a group gives."""
    store = HashStore()
    with ThreadPoolExecutor(size) as pool:
        members = [pool.submit(lambda rank: do(GlooGroup(store, rank, size)), rank) for rank in range(size)]
        return [member.result() for member in members]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [2, 3])
def test_sums_are_those_of_all_members_whatever_is_summed(size: int) -> None:
    def tensors(rank: int) -> list[Tensor]:
        floats = drawn(7, seed=rank), drawn(301, 307, seed=rank), drawn(5, 3, seed=rank).T, drawn(307, 311).T
        return [*floats, torch.arange(5) + rank, torch.tensor(0.5 + rank, dtype=torch.float64), torch.zeros(0)]

    def summed(group: Group) -> list[Tensor]:
        found = tensors(group.rank)
        group.sum_(found)
        return found

    wanted = [torch.stack(parts).sum(0) for parts in zip(*map(tensors, range(size)), strict=True)]
    for found in together(size, summed):
        for tensor, want in zip(found, wanted, strict=True):
            assert tensor.dtype == want.dtype
            torch.testing.assert_close(tensor, want)


@pytest.mark.parametrize("lengths", [(0, 7), (31, 2), (5, 0, 29), (1, 1, 1)])
@pytest.mark.parametrize("count", [1, 6, 23])
@pytest.mark.parametrize("tied", [False, True])
def test_the_largest_are_chosen_among_all_members(lengths: tuple[int, ...], count: int, tied: bool) -> None:
    values = [drawn(length, seed=number) for number, length in enumerate(lengths)]
    if tied:
        values = [(it * 2).round() for it in values]
    counts = together(len(lengths), lambda group: group.largest(values[group.rank], count))
    chosen = torch.cat([own.topk(number).values for own, number in zip(values, counts, strict=True)])
    everything = torch.cat(values)
    wanted = everything.topk(min(count, len(everything))).values
    assert chosen.sort(descending=True).values.tolist() == wanted.tolist()


def test_all_begin_with_what_the_first_has() -> None:
    def spread(group: Group) -> list[Tensor]:
        found = [torch.full((3,), group.rank), drawn(5, 7, seed=group.rank).T]
        group.spread_(found)
        return found

    for found in together(3, spread):
        assert found[0].tolist() == [0, 0, 0]
        assert torch.equal(found[1], drawn(5, 7).T)


@pytest.mark.parametrize("rule", ["topk", "batch-topk"])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("k", [2, 17])
def test_a_step_is_that_of_all_tokens_with_dead_features_and_rare_ones(rule: Any, gated: bool, k: int) -> None:
    """In 64 bits, where rounding errors are too small to turn what a token keeps."""
    x, out = (drawn(23, 7, seed=seed).double() for seed in (1, 2))
    shares, others = (slice(0, 16), slice(16, 23)), drawn(7, 7, seed=5).double()

    def trainer() -> SparseTrainer:
        shapes = {"enc": (61, 7), "gate": (61, 7), "dec": (61, 7), "b_enc": (61,), "b_gate": (61,), "b_dec": (7,)}
        weights = {
            name: drawn(*shape, seed=number).double()
            for number, (name, shape) in enumerate(shapes.items())
            if gated or "gate" not in name
        }
        weights["skip"] = drawn(7, 7, seed=9).double()
        encoder = Encoder("silu" if gated else "relu", k, rule)
        found = SparseTrainer.begin(weights, 2.0, encoder, auxiliary=0.5, balance=0.3)
        found.idle[::3] = found.dead_after + 1
        return found

    def learn(taking: SparseTrainer, own: slice, share: Share) -> float:
        for _ in range(3):
            beside = {"b_dec": x[own].sum(0) / 23, "skip": others * len(x[own]) / 23}
            loss = taking.step(x[own], out[own], 0.01, balanced=True, beside=beside, share=share).loss
        return loss

    one, many = trainer(), (trainer(), trainer())
    loss = learn(one, slice(None), Share())
    losses = together(2, lambda group: learn(many[group.rank], shares[group.rank], Share(group, 23)))
    assert losses == pytest.approx([loss, loss], rel=1e-12)
    for member in many:
        for name, tensor in one.state().items():
            torch.testing.assert_close(member.state()[name], tensor, rtol=1e-9, atol=1e-12)
    assert float(one.favour.max()) > 0


def learnt(model: LanguageModel, config: dict[str, Any], group: Group) -> Trained:
    plan = make_plan(read_config(config), model, corpus())
    return train_on_corpus(model, corpus().windows("train"), plan, RecordingContext(), group)


def tensors_of(trained: Trained) -> list[Tensor]:
    found, dictionaries = list[Tensor](), trained.dictionaries
    for it in dictionaries.values() if isinstance(dictionaries, dict) else [dictionaries]:
        for value in vars(it).values():
            found += [part for part in (value if isinstance(value, tuple) else (value,)) if isinstance(part, Tensor)]
    return found


@pytest.mark.parametrize(
    ("model", "config"),
    [
        (GATED, {}),
        (PLAIN, {"rule": "batch-topk"}),
        (GATED, {"rule": "batch-topk", "start": "mlp", "n_features": 11, "k": 2, "k_start": 3}),
        (PLAIN, {"skip": False, "layers": [1], "batch": 23}),
        (PLAIN, {"kind": "cross-layer"}),
        (PLAIN, {"kind": "cross-layer", "decoders": "tied", "rule": "topk"}),
        (GATED, {"finetune": 0.4, "finetune_batch": 60}),
        (PLAIN, {"finetune": 0.4, "finetune_batch": 60, "rule": "batch-topk"}),
        # One window to an update: one member has none.
        (GATED, {"finetune": 0.4, "finetune_batch": 15}),
    ],
)
def test_a_group_learns_what_one_process_learns(model: LanguageModel, config: dict[str, Any]) -> None:
    alone = learnt(model, SHORT | config, ALONE)
    first, *others = together(2, lambda group: learnt(model, SHORT | config, group))
    for member in others:
        assert all(map(torch.equal, tensors_of(member), tensors_of(first)))
    for found, wanted in zip(tensors_of(first), tensors_of(alone), strict=True):
        assert float((found - wanted).norm()) <= 1e-5 * float(wanted.norm())
    for name in ("fvu", "l0", "dead_share", "kl_nats"):
        found, wanted = getattr(first.history, name), getattr(alone.history, name)
        assert found == pytest.approx(wanted, rel=1e-4, abs=1e-6)
    assert first.history.tokens.tolist() == alone.history.tokens.tolist()


def test_more_processes_change_neither_the_name_of_a_result_nor_its_layers() -> None:
    assert STAGE.resolve({"workers": 3}) == {}
    assert "workers" in STAGE.local_fields


def test_more_processes_than_windows_of_a_step_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="workers is 19, but a step reads only 8 windows"):
        make_plan(read_config({**SHORT, "workers": 19}), GATED, corpus())


def test_each_process_holds_all_weights_and_its_part_of_what_is_read() -> None:
    def counted(**config: Any) -> Any:
        read = read_config({**SHORT, **config})
        return memory_of(read, make_plan(read, GATED, corpus()), GATED, corpus())

    one, two, three = counted(), counted(workers=2), counted(workers=3)
    weights = 3 * 4 * (97 * (3 * 14 + 2) + 14 + 14 * 14)
    other = three.checkpoint - two.checkpoint - 4 * weights
    assert two.checkpoint - one.checkpoint == 4 * weights + other
    assert 300 * 2**20 < other < 600 * 2**20
    assert two.measuring == one.measuring
    steps = [it.steps - number * 4 * weights - (number - 1) * other for number, it in enumerate((one, two), 1)]
    assert steps[1] == pytest.approx(steps[0], rel=0.2)
