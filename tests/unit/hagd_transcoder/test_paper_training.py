"""The autoencoders that the paper prints: their loss, their training, and what replacing streams by them does."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from hagd.corpora.corpus import Windows
from hagd.dictionaries.history import history_from_document
from hagd.dictionaries.paper_autoencoder import PaperAutoencoder, paper_to_document
from hagd.dictionaries.storage import any_dictionaries_from_document
from hagd.errors import CancelledError, InvalidInputError
from hagd.extraction.corpus_plan import build_corpus_plan
from hagd.extraction.settings import Settings
from hagd.models.language_model import LanguageModel
from hagd.models.storage import model_to_document
from hagd.testing import RecordingContext
from hagd_transcoder.domain.paper_measuring import measure_as_printed
from hagd_transcoder.domain.paper_training import printed_loss
from hagd_transcoder.paper_autoencoders import resolve
from hagd_transcoder.paper_stage import run
from unit.hagd_transcoder.test_corpus_training import MODEL, corpus, inputs

CONFIG: dict[str, Any] = {"n_features": 37, "k": 5, "batch": 60, "buffer": 120, "tokens": 1200}


def test_the_loss_is_the_one_printed_term_by_term() -> None:
    generator = torch.Generator().manual_seed(0)
    layers, tokens, width, features, k = 3, 7, 5, 11, 2

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    made = PaperAutoencoder(
        k,
        draw(layers, width, features),
        draw(layers, features),
        draw(layers, features, width),
        draw(layers - 1, features, features),
        draw(layers - 1, features),
    )
    h = draw(layers, tokens, width)

    _, loss, _ = printed_loss(made, h, prediction=0.3, sparsity=0.7)

    expected = 0.0
    f = np.zeros((layers, tokens, features))
    for layer in range(layers):
        for token in range(tokens):
            dense = np.maximum(h[layer, token].numpy() @ made.w_enc[layer].numpy() + made.b_enc[layer].numpy(), 0)
            kept = np.argsort(-dense)[:k]
            f[layer, token, kept] = dense[kept]
            rebuilt = f[layer, token] @ made.w_dec[layer].numpy()
            expected += ((h[layer, token].numpy() - rebuilt) ** 2).sum() / tokens + 0.7 * f[layer, token].sum() / tokens
    for layer in range(layers - 1):
        ahead = np.maximum(f[layer] @ made.w_next[layer].numpy() + made.b_next[layer].numpy(), 0)
        expected += 0.3 * ((f[layer + 1] - ahead) ** 2).sum() / tokens
    assert float(loss) == pytest.approx(expected, rel=1e-12)


def both() -> tuple[Windows, Windows]:
    documents = corpus()
    return documents.windows("train"), documents.windows("held-out")


def whole(model: LanguageModel) -> PaperAutoencoder:
    """Give features that hold a stream whole: its positive and its negative parts."""
    n_layers, width = model.config.n_layers, model.config.d_model
    both = torch.cat([torch.eye(width), -torch.eye(width)], dim=1).expand(n_layers, -1, -1)
    size = n_layers - 1, 2 * width
    return PaperAutoencoder(
        2 * width, both, torch.zeros(n_layers, 2 * width), both.mT, torch.zeros(*size, 2 * width), torch.zeros(*size)
    )


@pytest.mark.parametrize("parallel", [False, True])
def test_features_that_hold_streams_whole_leave_nothing_unexplained_and_the_model_as_it_is(parallel: bool) -> None:
    model = replace(MODEL, config=replace(MODEL.config, parallel_residual=parallel))

    found = measure_as_printed(model, whole(model), *both(), RecordingContext(), seed=0)

    assert found["fvu_worst"] < 1e-10
    assert abs(found["kl_nats"]) < 1e-5
    assert found["cross_entropy_replaced"] == pytest.approx(found["cross_entropy"], abs=1e-5)
    assert found["cross_entropy_without_streams"] != pytest.approx(found["cross_entropy"], abs=1e-2)
    assert [layer["l0"] for layer in found["layers"]] == pytest.approx([MODEL.config.d_model] * 3)


def test_streams_of_zeros_explain_no_more_than_the_mean() -> None:
    made = whole(MODEL)
    nothing = replace(made, w_dec=torch.zeros_like(made.w_dec))

    found = measure_as_printed(MODEL, nothing, *both(), RecordingContext(), seed=0)

    assert all(layer["fvu"] > 1 for layer in found["layers"])
    assert found["cross_entropy_replaced"] == pytest.approx(found["cross_entropy_without_streams"], abs=1e-6)
    assert found["kl_nats"] > 0.01


def test_the_best_directions_are_those_that_leave_least_and_all_leave_nothing() -> None:
    train, held_out = both()

    def left(k: int) -> list[float]:
        found = measure_as_printed(MODEL, replace(whole(MODEL), k=k), train, held_out, RecordingContext(), seed=0)
        return [layer["fvu_linear"] for layer in found["layers"]]

    few, more, every = left(2), left(7), left(MODEL.config.d_model)
    assert all(1 > a > b > c for a, b, c in zip(few, more, every, strict=True))
    assert max(every) < 1e-5


def test_training_explains_streams_and_foresees_features_better_than_the_start() -> None:
    def layers_after(tokens: int, prediction: float) -> list[dict[str, Any]]:
        config = {**CONFIG, "tokens": tokens, "prediction": prediction}
        return run(inputs(), config, RecordingContext())["dictionaries"].content["metrics"]["layers"]

    early, late, blind = layers_after(60, 0.1), layers_after(12_000, 0.1), layers_after(12_000, 0.0)
    assert all(now["fvu"] < 0.7 * before["fvu"] for now, before in zip(late, early, strict=True))
    assert all(now["l0"] <= 5 for now in late)
    assert all(
        now["unpredicted_of_next"] < it["unpredicted_of_next"] for now, it in zip(late[:-1], blind, strict=False)
    )
    assert late[-1]["unpredicted_of_next"] is None


def test_a_training_that_was_stopped_goes_on_to_the_same_weights_and_curve() -> None:
    config = {**CONFIG, "checkpoints": 5}
    at_once = run(inputs(), config, RecordingContext())
    context = RecordingContext(cancel_after=6)
    with pytest.raises(CancelledError):
        run(inputs(), config, context)
    assert context.checkpoints

    resumed = run(inputs(), config, RecordingContext(checkpoints=context.checkpoints))

    pairs = [(found["dictionaries"].tensors, found["training"].tensors) for found in (at_once, resumed)]
    for first, second in zip(*pairs, strict=True):
        for name in set(first) - {"seconds"}:
            np.testing.assert_array_equal(first[name], second[name], err_msg=name)
    assert history_from_document(resumed["training"]).tokens[-1] >= 1000


def test_autoencoders_are_taken_for_no_dictionaries() -> None:
    with pytest.raises(InvalidInputError, match="replace no MLP"):
        any_dictionaries_from_document(paper_to_document(whole(MODEL), {"fvu_mean": 0.0}))


def test_nothing_is_foreseen_of_features_that_are_silent() -> None:
    made = whole(MODEL)
    silent = replace(made, b_enc=made.b_enc - 1e6)

    found = measure_as_printed(MODEL, silent, *both(), RecordingContext(), seed=0)

    assert [layer["unpredicted_of_next"] for layer in found["layers"]] == [None] * 3
    assert [layer["l0"] for layer in found["layers"]] == [0] * 3


def test_a_model_of_one_layer_has_nothing_to_foresee_and_is_resumed() -> None:
    one = replace(MODEL, config=replace(MODEL.config, n_layers=1), blocks=MODEL.blocks[:1])
    given = inputs() | {"model": model_to_document(one)}
    at_once = run(given, {**CONFIG, "checkpoints": 5}, RecordingContext())
    context = RecordingContext(cancel_after=6)
    with pytest.raises(CancelledError):
        run(given, {**CONFIG, "checkpoints": 5}, context)

    resumed = run(given, {**CONFIG, "checkpoints": 5}, RecordingContext(checkpoints=context.checkpoints))

    np.testing.assert_array_equal(at_once["dictionaries"].tensors["w_dec"], resumed["dictionaries"].tensors["w_dec"])


def test_what_cannot_be_trained_is_told_before_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInputError, match="only 3 features"):
        resolve({"n_features": 3, "k": 5})
    with pytest.raises(InvalidInputError, match="only 112 features"):
        run(inputs(), {"k": 113}, RecordingContext())
    monkeypatch.setattr("hagd_transcoder.paper_stage.available_bytes", lambda _: 1 << 16)
    with pytest.raises(InvalidInputError, match="GiB"):
        run(inputs(), CONFIG, RecordingContext())


def test_a_name_for_the_kind_asks_for_the_stage(tmp_path: Any) -> None:
    (tmp_path / "a.txt").write_text("some text")
    plan = build_corpus_plan(Settings(model="smollm2", dictionary="hagd-paper"), [tmp_path / "a.txt"])
    assert [entry.stage_id for entry in plan] == ["corpus", "paper-autoencoder"]
