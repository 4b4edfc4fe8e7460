"""Dictionaries from a corpus: the same whether layers learn together or apart, at once or with a stop between."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hagd.artifacts.document import Document
from hagd.corpora.corpus import Corpus
from hagd.corpora.storage import corpus_to_document
from hagd.dictionaries.dictionary import neurons_of
from hagd.dictionaries.formats import circuit_tracer
from hagd.dictionaries.formats.registry import read_folder
from hagd.dictionaries.history import TrainingHistory, history_from_document, history_to_document, join_histories
from hagd.dictionaries.metrics import fraction_unexplained
from hagd.dictionaries.storage import dictionaries_from_document
from hagd.errors import CancelledError, CorruptArtifactError, InvalidInputError
from hagd.models.storage import model_to_document
from hagd.models.trunk import Passage, run_trunk
from hagd.testing import RecordingContext
from hagd_transcoder.corpus_dictionaries import join, make_plan, run, run_shard
from hagd_transcoder.corpus_handlers import read_config, resolve, split
from hagd_transcoder.domain.corpus_evaluation import evaluate_on_corpus
from hagd_transcoder.domain.corpus_training import windows_of_step
from hagd_transcoder.domain.recording import Recorder, StepMeasures
from unit.hagd_transcoder.tiny_subjects import VOCAB, tiny_model

TINY = tiny_model(n_layers=3, activation="silu")
MODEL = replace(TINY, config=replace(TINY.config, n_positions=17))
CONFIG: dict[str, Any] = {"n_features": 13, "k": 5, "batch": 60, "buffer": 120, "tokens": 1200, "traced": 3}


def corpus() -> Corpus:
    lengths = torch.randint(20, 60, (19,), generator=torch.Generator().manual_seed(0))
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    tokens = torch.randint(VOCAB, (int(offsets[-1]),), generator=torch.Generator().manual_seed(1))
    held_out = torch.arange(19) % 4 == 0
    return Corpus(tokens.int(), offsets, held_out, 17, None)


def inputs() -> dict[str, Document]:
    return {"model": model_to_document(MODEL), "corpus": corpus_to_document(corpus(), {"digest": "0" * 64})}


def test_training_leaves_less_unexplained_than_the_start_and_than_random_weights() -> None:
    def mean(**config: Any) -> float:
        found = run(inputs(), {**CONFIG, "n_features": 11, "k": 2, **config}, RecordingContext())["dictionaries"]
        return found.content["metrics"]["fvu_mean"]

    trained = mean(tokens=6000)
    assert trained < 0.85 * mean(tokens=60)
    assert trained < mean(tokens=6000, start="random")


def test_a_layer_learns_the_same_alone_in_a_shard_and_with_the_others() -> None:
    together = dictionaries_from_document(run(inputs(), CONFIG, RecordingContext())["dictionaries"])
    sharded = {**CONFIG, "shards": 2}
    shards = [run_shard(inputs(), it, RecordingContext()) for it in split(sharded)]
    parts = [shard["dictionaries"] for shard in shards]
    assert [sorted(dictionaries_from_document(part)) for part in parts] == [[0, 2], [1]]
    for part in parts:
        for layer, dictionary in dictionaries_from_document(part).items():
            assert torch.equal(dictionary.w_dec, together[layer].w_dec)
    given = {f"{role}/{number:05d}": it for number, shard in enumerate(shards) for role, it in shard.items()}
    joined = join({**inputs(), **given}, sharded, RecordingContext())
    assert len(joined["dictionaries"].content["metrics"]["layers"]) == 3
    same_curves(joined["training"], run(inputs(), CONFIG, RecordingContext())["training"])


def test_a_run_that_was_stopped_goes_on_with_the_same_bytes() -> None:
    undisturbed = run(inputs(), CONFIG, RecordingContext())
    stopped = RecordingContext(cancel_after=9)
    with pytest.raises(CancelledError):
        run(inputs(), CONFIG, stopped)
    assert stopped.checkpoints
    resumed = RecordingContext(checkpoints=stopped.checkpoints)
    found = run(inputs(), CONFIG, resumed)
    assert found["dictionaries"].encode() == undisturbed["dictionaries"].encode()
    same_curves(found["training"], undisturbed["training"])
    assert (np.diff(found["training"].tensors["seconds"], axis=0) > 0).all()


def same_curves(found: Document, expected: Document) -> None:
    """Compare all but the time that it took."""
    assert found.content == expected.content
    for name in ("tokens", "fvu", "l0", "dead_share"):
        assert np.array_equal(found.tensors[name], expected.tensors[name])


def test_curves_tell_of_every_step_and_of_every_token() -> None:
    config = {**CONFIG, "n_features": 11, "k": 2, "buffer": 60, "tokens": 3000, "traced": 0}
    document = run(inputs(), config, RecordingContext())["training"]
    found = history_from_document(document)
    assert (found.layers, len(found.tokens)) == ((0, 1, 2), 47)
    assert found.tokens[-1] == pytest.approx(3000, rel=0.1)
    # The start is the MLP itself, so the error grows while k falls, and falls again once k stays.
    assert (found.fvu[0] < 1e-6).all()
    assert (found.fvu[-1] > 0.01).all()
    # k is annealed from all features to two.
    assert found.l0[0] == pytest.approx(11, abs=1)
    assert found.l0[-1] == pytest.approx(2, abs=1e-9)
    assert (found.tokens_per_second() > 0).all()


def test_long_runs_leave_means_of_stretches_and_a_stop_between_changes_nothing() -> None:
    whole, parts = Recorder.start((2, 5), 600), Recorder.start((2, 5), 600)
    for step in range(600):
        said = {5: StepMeasures(step, 7, 0.5), 2: StepMeasures(1, step, step / 600)}
        whole.add(step, said, 10 * (step + 1), 0.5 * step)
        if step == 301:
            stopped = parts.state()
            parts = Recorder.start((2, 5), 600)
            parts.restore(stopped)
        parts.add(step, said, 10 * (step + 1), 0.5 * step)
    found = whole.history()
    assert found.fvu.shape == (200, 2)
    assert found.fvu[:, 1].tolist() == [3 * stretch + 1 for stretch in range(200)]
    assert found.l0[:, 0].tolist() == [3 * stretch + 1 for stretch in range(200)]
    assert found.dead_share[-1].tolist() == [599 / 600, 0.5]
    assert found.tokens.tolist() == [30 * (stretch + 1) for stretch in range(200)]
    assert found.tokens_per_second()[1:] == pytest.approx(20)
    same_curves(history_to_document(parts.history()), history_to_document(found))


def flat_history(layers: tuple[int, ...], stretches: int) -> TrainingHistory:
    zeros = np.zeros((stretches, len(layers)))
    return TrainingHistory(layers, np.arange(stretches), zeros, zeros, zeros, zeros)


def test_a_history_whose_parts_do_not_fit_is_refused() -> None:
    document = history_to_document(flat_history((0, 1), 3))
    broken = Document({**document.content, "layers": [0]}, document.tensors)
    with pytest.raises(CorruptArtifactError, match="seconds has shape"):
        history_from_document(broken)
    longer = Document(document.content, {**document.tensors, "kl_nats": np.zeros(4)})
    with pytest.raises(CorruptArtifactError, match="kl_nats has shape"):
        history_from_document(longer)
    with pytest.raises(CorruptArtifactError, match="same tokens"):
        join_histories([history_from_document(document), flat_history((2,), 4)])


def test_every_window_is_read_once_before_any_is_read_again() -> None:
    read = torch.cat([windows_of_step(11, 4, step, seed=5) for step in range(11)])
    assert [sorted(part.tolist()) for part in read.split(11)] == [list(range(11))] * 4
    assert read[:11].tolist() != read[11:22].tolist()


@pytest.mark.parametrize("rule", ["topk", "batch-topk"])
def test_plain_transcoders_beside_gated_mlps_learn_and_are_written_for_circuit_tracer(
    rule: str, tmp_path: Path
) -> None:
    def trained(tokens: int) -> Document:
        config = {**CONFIG, "kind": "transcoder", "rule": rule, "tokens": tokens, "learning_rate": 5e-3}
        return run(inputs(), config, RecordingContext())["dictionaries"]

    document = trained(6000)
    metrics = document.content["metrics"]
    assert metrics["plan"]["start"]["place"] == "random"
    assert metrics["fvu_mean"] < 0.85 * trained(120).content["metrics"]["fvu_mean"]
    found = dictionaries_from_document(document)
    assert {(it.kind, it.activation, it.w_gate) for it in found.values()} == {("transcoder", "relu", None)}
    circuit_tracer.write(found, tmp_path, "tiny")
    content = read_folder(tmp_path).content
    assert isinstance(content, dict)
    x = torch.randn(7, MODEL.config.d_model, generator=torch.Generator().manual_seed(2))
    for layer, dictionary in found.items():
        again = content[layer]
        assert torch.allclose(
            again.decode(again.encode(x), x), dictionary.decode(dictionary.encode(x), x), rtol=1e-5, atol=1e-6
        )


def test_gated_dictionaries_are_refused_for_circuit_tracer_with_the_settings_that_help(tmp_path: Path) -> None:
    gated = dictionaries_from_document(run(inputs(), {**CONFIG, "tokens": 120}, RecordingContext())["dictionaries"])
    with pytest.raises(InvalidInputError) as refused:
        circuit_tracer.write(gated, tmp_path, "tiny")
    named = dict(it.split("=") for it in re.findall(r"corpus-transcoder\.(\w+=\w+)", refused.value.hint))
    plain = run(inputs(), {**CONFIG, "tokens": 120, **named}, RecordingContext())["dictionaries"]
    circuit_tracer.write(dictionaries_from_document(plain), tmp_path, "tiny")


def test_batch_top_k_ends_as_thresholds_that_keep_about_k() -> None:
    found = run(inputs(), {**CONFIG, "rule": "batch-topk", "tokens": 6000}, RecordingContext())["dictionaries"]
    for layer, dictionary in dictionaries_from_document(found).items():
        assert (dictionary.k, dictionary.threshold is None) == (None, False)
        assert found.content["metrics"]["layers"][layer]["l0"] == pytest.approx(5, rel=0.25)


def test_neurons_leave_nothing_unexplained_and_change_nothing() -> None:
    neurons = {layer: neurons_of(block.mlp, layer) for layer, block in enumerate(MODEL.blocks)}
    windows = corpus().windows("train"), corpus().windows("held-out")
    found = evaluate_on_corpus(MODEL, neurons, *windows, RecordingContext())
    assert found["fvu_worst"] < 1e-10
    assert abs(found["kl_nats"]) < 1e-6
    assert found["cross_entropy_recovered"] == pytest.approx(1)
    assert [layer["dead_share"] for layer in found["layers"]] == [0, 0, 0]
    assert all(abs(layer["cross_entropy_increase_alone"]) < 1e-6 for layer in found["layers"])


def test_one_mlp_replaced_is_measured_by_what_the_model_then_says_of_the_next_tokens() -> None:
    document = run(inputs(), CONFIG, RecordingContext())["dictionaries"]
    found, held_out = dictionaries_from_document(document), corpus().windows("held-out")

    def cross_entropy(replaced: int | None) -> float:
        surprise: list[torch.Tensor] = []
        for number in range(len(held_out)):
            batch = held_out.batch([number])

            def visit(layer: int, it: Passage) -> torch.Tensor:
                out = it.out.clone()
                if layer == replaced:
                    out[:, 1:] = found[layer].decode(found[layer].encode(it.x), it.x)[:, 1:]
                return out

            predicted = MODEL.logits(run_trunk(MODEL, batch.tokens, visit))[0].log_softmax(-1)
            surprise += [-predicted[pos, token] for pos, token in enumerate(batch.tokens[0, 1:].tolist())]
        return float(sum(surprise) / len(surprise))

    plain = cross_entropy(None)
    for layer, measured in enumerate(document.content["metrics"]["layers"]):
        replaced = cross_entropy(layer)
        assert measured["cross_entropy_alone"] == pytest.approx(replaced, rel=1e-5)
        assert measured["cross_entropy_increase_alone"] == pytest.approx(replaced - plain, abs=1e-5)
        assert abs(replaced - plain) > 1e-4


def test_how_soon_a_feature_is_dead_follows_from_the_tokens_and_not_from_the_batch() -> None:
    def dead_after(**config: Any) -> int:
        return make_plan(read_config({**CONFIG, "buffer": None, **config}), MODEL, corpus()).dead_after

    for batch in (60, 2048):
        assert [dead_after(batch=batch, tokens=it) for it in (1200, 700_000, 9_000_000)] == [25_600, 70_000, 204_800]
    assert dead_after(dead_after=77) == 77


def test_progress_tells_error_activity_dead_share_and_speed() -> None:
    context = RecordingContext()
    run(inputs(), {**CONFIG, "n_features": 11, "k": 2, "traced": 0}, context)
    (*_, last) = (text for _, _, text in context.reports if "tokens/s" in text)
    assert re.fullmatch(r"unexplained 0\.\d{3}, 2\.0 active, \d+\.\d% dead, \d+ tokens/s", last)


def test_errors_are_those_of_all_held_out_tokens_but_the_first_of_each_window() -> None:
    document = run(inputs(), CONFIG, RecordingContext())["dictionaries"]
    found, held_out = dictionaries_from_document(document), corpus().windows("held-out")
    rows: dict[int, list[tuple[torch.Tensor, torch.Tensor]]] = {0: [], 1: [], 2: []}
    for number in range(len(held_out)):
        batch = held_out.batch([number])
        run_trunk(MODEL, batch.tokens, lambda layer, it: rows[layer].append((it.x[0, 1:], it.out[0, 1:])))
    for layer, measured in enumerate(document.content["metrics"]["layers"]):
        x, out = (torch.cat(side) for side in zip(*rows[layer], strict=True))
        rebuilt = found[layer].decode(found[layer].encode(x), x)
        assert measured["fvu"] == pytest.approx(fraction_unexplained(out, rebuilt), rel=1e-4)
        low, high = measured["fvu_ci95"]
        assert low < measured["fvu"] < high
        assert measured["l0"] == pytest.approx(5)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="k is 14, but there are only 13 features"):
        resolve({"n_features": 13, "k": 14})
    with pytest.raises(InvalidInputError, match="names layer 3, but the model has 3"):
        run(inputs(), {**CONFIG, "layers": [3]}, RecordingContext())
    with pytest.raises(InvalidInputError, match="these MLPs are gated"):
        run(inputs(), {**CONFIG, "kind": "transcoder", "start": "mlp"}, RecordingContext())
    with pytest.raises(InvalidInputError, match="only 3 layers get a dictionary"):
        run_shard(inputs(), {**CONFIG, "shards": 4, "shard": 0}, RecordingContext())
    with pytest.raises(InvalidInputError, match="k is 64, but there are only 7"):
        run(
            inputs(),
            {"n_features": 7, "k": None, "layers": [0], "start": "mlp", "tokens": 60} | {"k": 64},
            RecordingContext(),
        )
