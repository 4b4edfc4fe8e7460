"""Training on the sparse path: it learns what can be learned, revives the dead, and stops at what is no number."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from hagd.dictionaries.dictionary import Dictionary, neurons_of
from hagd.dictionaries.metrics import fraction_unexplained
from hagd.errors import NonFiniteError
from hagd.models.language_model import Mlp
from hagd_transcoder.domain.sparse.step import Encoder
from hagd_transcoder.domain.sparse.trainer import SparseTrainer

WIDTH, NEURONS = 8, 24


def mlp(gated: bool = True) -> Mlp:
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) / 3

    gate = draw(WIDTH, NEURONS) if gated else None
    return Mlp("silu" if gated else "relu", gate, draw(WIDTH, NEURONS), None, draw(NEURONS, WIDTH), None)


def tokens(count: int, seed: int) -> Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))


def trainer(dictionary: Dictionary, k: int, **changes: float) -> SparseTrainer:
    out = mlp()(tokens(2000, 9))
    variance = float((out - out.mean(0)).square().sum(-1).mean())
    return SparseTrainer.start(dictionary, variance, Encoder(dictionary.activation, k), **changes)  # pyright: ignore


def test_with_everything_kept_the_neurons_are_exact_and_stay_so() -> None:
    learner = trainer(neurons_of(mlp(), 0), NEURONS)
    x = tokens(300, 1)
    assert learner.step(x, mlp()(x), 1e-3).loss < 1e-10


@pytest.mark.parametrize("rule", ["topk", "batch-topk"])
def test_training_from_the_neurons_explains_more_than_the_strongest_neurons(rule: str) -> None:
    start = replace(neurons_of(mlp(), 0), k=5)
    learner = trainer(start, 5)
    learner.encoder = replace(learner.encoder, rule=rule)  # pyright: ignore[reportArgumentType]
    for step in range(100):
        x = tokens(256, 100 + step)
        learner.step(x, mlp()(x), 5e-3)
    x = tokens(2000, 2)
    found, before = learner.dictionary(0), fraction_unexplained(mlp()(x), start.decode(start.encode(x), x))
    assert fraction_unexplained(mlp()(x), found.decode(found.encode(x), x)) < 0.75 * before


def test_features_that_never_win_learn_from_the_error_of_the_others_alone() -> None:
    start = neurons_of(mlp(), 0)
    weak = start.w_dec.clone()
    weak[:12] *= 1e-4
    moved: list[bool] = []
    for auxiliary in (0.0, 0.5):
        learner = trainer(replace(start, w_dec=weak), 4, auxiliary=auxiliary, dead_after=500)
        for step in range(12):
            x = tokens(128, step)
            learner.step(x, mlp()(x), 1e-6)
        moved.append(not learner.weights["dec"][:12].equal(weak[:12]))
    assert moved == [False, True]


def test_a_feature_is_dead_by_the_tokens_since_it_fired_whatever_the_batch() -> None:
    start = neurons_of(mlp(), 0)
    weak = start.w_dec.clone()
    weak[:12] *= 1e-4
    for batch in (32, 64, 160):
        learner = trainer(replace(start, w_dec=weak), 4, auxiliary=0.0, dead_after=319)
        shares = list[float]()
        for step in range(640 // batch):
            x = tokens(batch, step)
            learner.step(x, mlp()(x), 1e-9)
            shares.append(learner.dead_share())
        silent = 320 // batch
        assert max(shares[: silent - 1]) == 0
        assert min(shares[silent - 1 :]) >= 0.3


def test_rare_features_are_favoured_until_they_are_kept_and_the_rest_never() -> None:
    start = neurons_of(mlp(), 0)
    weak = start.w_dec.clone()
    weak[:12] *= 0.02
    learner = trainer(replace(start, w_dec=weak), 4, auxiliary=0.0, balance=0.1)
    fired = [learner.step(tokens(256, it), mlp()(tokens(256, it)), 1e-6, balanced=True).fired for it in range(60)]
    few = int((fired[0][:12] > 0).sum())
    assert few <= 4
    assert int((torch.stack(fired[-10:]).sum(0) > 0).sum()) == NEURONS
    assert float(learner.favour.max()) > 1.0
    assert float(learner.favour[fired[0].argmax()]) == 0.0
    alone = learner.step(tokens(256, 0), mlp()(tokens(256, 0)), 1e-6).fired
    assert int((alone[:12] > 0).sum()) == few


def test_training_goes_on_from_a_checkpoint_as_if_nothing_had_happened() -> None:
    settings = {"dead_after": 190, "balance": 0.1}
    whole, first = trainer(neurons_of(mlp(), 0), 5, **settings), trainer(neurons_of(mlp(), 0), 5, **settings)
    for step in range(12):
        x = tokens(64, step)
        whole.step(x, mlp()(x), 1e-2, balanced=True)
        if step == 5:
            second = trainer(neurons_of(mlp(), 0), 5, **settings)
            second.restore({name: tensor.clone() for name, tensor in first.state().items()})
            first = second
        first.step(x, mlp()(x), 1e-2, balanced=True)
    for name, tensor in whole.state().items():
        assert first.state()[name].equal(tensor), name


def test_a_loss_that_is_no_number_stops_training_and_leaves_the_weights() -> None:
    learner = trainer(neurons_of(mlp(), 0), 5)
    before = {name: tensor.clone() for name, tensor in learner.weights.items()}
    x = tokens(10, 1)
    with pytest.raises(NonFiniteError):
        learner.step(x, torch.full_like(x, float("nan")), 1e-3)
    assert all(tensor.equal(before[name]) for name, tensor in learner.weights.items())
