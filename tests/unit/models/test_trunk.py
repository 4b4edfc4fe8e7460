"""The run that shows every layer is the run of the model, and answers given in place of an MLP go on."""

import torch
from torch import Tensor

from hagd.interventions.activations import Subject, record
from hagd.models.trunk import Passage, plain_logits, run_trunk
from unit.hagd_transcoder.tiny_subjects import VOCAB, tiny_model


def tokens(n_pos: int = 7) -> Tensor:
    return torch.randint(VOCAB, (5, n_pos), generator=torch.Generator().manual_seed(0))


def ignore(*_: object) -> None:
    """Let every MLP answer for itself."""


def test_the_last_residual_gives_the_model_s_logits_and_every_mlp_is_shown_once() -> None:
    for activation in ("relu", "silu"):
        model = tiny_model(n_layers=3, activation=activation)
        shown: list[tuple[int, Passage]] = []
        resid = run_trunk(model, tokens(), lambda *it, shown=shown: shown.append(it))
        recorded = record(Subject(model), tokens(), tuple(range(7))).logits
        torch.testing.assert_close(model.logits(resid), recorded)
        torch.testing.assert_close(plain_logits(model, tokens()), recorded)
        assert [layer for layer, _ in shown] == [0, 1, 2]
        for layer, it in shown:
            torch.testing.assert_close(model.blocks[layer].norm_mlp(it.heard), it.x)
            torch.testing.assert_close(model.blocks[layer].mlp(it.x), it.out)


def test_an_answer_in_place_of_an_mlp_reaches_the_layers_above() -> None:
    model = tiny_model(n_layers=2)
    read: list[Tensor] = []

    def silence(layer: int, passage: Passage) -> Tensor | None:
        read.append(passage.x)
        return torch.zeros_like(passage.out) if layer == 0 else None

    silent = run_trunk(model, tokens(), silence)
    plain = run_trunk(model, tokens(), ignore)
    assert not torch.allclose(silent, plain)
    assert len(read) == 2


def test_layers_above_the_last_one_wanted_are_not_run() -> None:
    seen: list[int] = []
    run_trunk(tiny_model(n_layers=3), tokens(), lambda *shown: seen.append(shown[0]), upto=1)
    assert seen == [0, 1]


def test_half_precision_stays_close_and_gives_float32() -> None:
    model = tiny_model(n_layers=2, activation="silu")
    exact = run_trunk(model, tokens(), ignore)
    half = run_trunk(model, tokens(), ignore, half=True)
    assert half.dtype == torch.float32
    assert 0 < float((half - exact).norm() / exact.norm()) < 0.05
