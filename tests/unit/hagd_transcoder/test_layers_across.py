"""A transcoder across layers, learned from a corpus: what it is, what is measured of it, and where it may be used."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hagd.artifacts.document import Document
from hagd.attribution.frozen import freeze
from hagd.attribution.replacement import Replacement
from hagd.corpora.corpus import Corpus
from hagd.corpora.storage import corpus_to_document
from hagd.dictionaries.cross_layer import CrossLayerTranscoder, cross_layer_from_document
from hagd.dictionaries.dictionary import neurons_of
from hagd.dictionaries.formats import circuit_tracer_clt
from hagd.dictionaries.formats.registry import read_folder
from hagd.dictionaries.metrics import fraction_unexplained, mean_active
from hagd.errors import CancelledError, InvalidInputError
from hagd.models.language_model import LanguageModel
from hagd.models.storage import model_to_document
from hagd.models.trunk import run_trunk
from hagd.testing import RecordingContext
from hagd_transcoder import corpus_dictionaries, corpus_estimate
from hagd_transcoder.corpus_dictionaries import make_plan, memory_of, run
from hagd_transcoder.corpus_handlers import read_config, resolve
from hagd_transcoder.domain.corpus_calibration import time_training
from hagd_transcoder.domain.corpus_evaluation import evaluate_on_corpus
from hagd_transcoder.domain.corpus_training import start_layers
from hagd_transcoder.domain.layers_across import LayersAcross
from hagd_transcoder.domain.sparse.joint import joint_steps
from hagd_transcoder.domain.traced_evaluation import exchanged
from unit.attribution.frozen_models import Simulation
from unit.attribution.test_edges import edges_are_effects, ends, graph_of, sources
from unit.hagd_coarsening import tiny
from unit.hagd_transcoder.test_corpus_estimate import long_corpus
from unit.hagd_transcoder.test_corpus_training import corpus, same_curves
from unit.hagd_transcoder.tiny_subjects import D_MLP, D_MODEL, tiny_model

LAYERS = 3
TINY = tiny_model(n_layers=LAYERS, activation="relu")
MODEL = replace(TINY, config=replace(TINY.config, n_positions=17), pos_embed=torch.zeros(17, D_MODEL))
CONFIG: dict[str, Any] = {
    "kind": "cross-layer",
    "n_features": 13,
    "k": 3,
    "batch": 60,
    "buffer": 120,
    "tokens": 1200,
    "traced": 0,
}


def inputs(documents: Corpus | None = None, model: LanguageModel = MODEL) -> dict[str, Document]:
    given = corpus_to_document(documents or corpus(), {"digest": "0" * 64})
    return {"model": model_to_document(model), "corpus": given}


def trained(model: LanguageModel = MODEL, **config: Any) -> tuple[CrossLayerTranscoder, dict[str, Any]]:
    document = run(inputs(model=model), {**CONFIG, **config}, RecordingContext())["dictionaries"]
    return cross_layer_from_document(document), document.content["metrics"]


def started(**config: Any) -> LayersAcross:
    plan = make_plan(read_config({**CONFIG, **config}), MODEL, corpus())
    layers = start_layers(MODEL, corpus().windows("train"), plan)
    assert isinstance(layers, LayersAcross)
    return layers


def read_and_written() -> tuple[list[Tensor], list[Tensor]]:
    """Give what the MLPs read and write on all held-out tokens that count."""
    held_out = corpus().windows("held-out")
    rows: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(LAYERS)]
    for number in range(len(held_out)):
        batch = held_out.batch([number])
        run_trunk(MODEL, batch.tokens, lambda layer, it: rows[layer].append((it.x[0, 1:], it.out[0, 1:])))
    both = [[torch.cat(side) for side in zip(*layer, strict=True)] for layer in rows]
    return [x for x, _ in both], [out for _, out in both]


def test_it_starts_at_the_mlps_and_writes_nothing_to_later_layers() -> None:
    layers = started(n_features=D_MLP)
    found, (x, out) = layers.finished(), read_and_written()
    features = [found.encode(layer, x[layer]) for layer in range(LAYERS)]
    for layer in range(LAYERS):
        assert float(found.w_dec[layer][1:].abs().sum()) == 0
    for layer in range(LAYERS):
        assert fraction_unexplained(out[layer], found.decode(layer, features, x[layer])) < 1e-10


@pytest.mark.parametrize("decoders", ["untied", "tied"])
def test_training_leaves_less_unexplained_than_the_start(decoders: str) -> None:
    _, at_first = trained(decoders=decoders, tokens=60)
    found, at_last = trained(decoders=decoders, tokens=12_000)
    assert at_last["fvu_mean"] < 0.9 * at_first["fvu_mean"]
    assert min(float(it[1:].abs().max()) for it in found.w_dec[:-1]) > 0


def test_tied_decoders_are_the_same_in_the_units_of_each_layer() -> None:
    layers = started(decoders="tied")
    found = layers.finished()
    for source, blocks in enumerate(found.w_dec):
        for own, unit in zip(blocks, layers.units[source:], strict=True):
            torch.testing.assert_close(own / unit, found.w_dec[source][0] / layers.units[source])


@pytest.mark.parametrize("decoders", ["untied", "tied"])
def test_a_finished_transcoder_makes_the_errors_of_the_training_step(decoders: str) -> None:
    layers = started(decoders=decoders, rule="topk", start="random", k_start=3)
    generator = torch.Generator().manual_seed(3)
    for trainer in layers.trainers.values():
        trainer.weights["dec"].copy_(torch.randn(trainer.weights["dec"].shape, generator=generator))
    x, out = read_and_written()
    trainers, units = list(layers.trainers.values()), layers.units
    codes = [it.encode(x[layer], 3, balanced=False) for layer, it in enumerate(trainers)]
    targets = [it / units[layer] for layer, it in enumerate(out)]
    steps = joint_steps(codes, [it.weights for it in trainers], x, targets, layers.variance, tied=layers.tied)
    found = layers.finished()
    assert found.k == 3
    features = [found.encode(layer, x[layer]) for layer in range(LAYERS)]
    for layer, step in enumerate(steps):
        error = (out[layer] - found.decode(layer, features, x[layer])) / units[layer]
        assert float(error.square().sum(1).mean()) / layers.variance == pytest.approx(step.loss, rel=1e-4)


@pytest.mark.parametrize("decoders", ["untied", "tied"])
def test_a_run_that_was_stopped_goes_on_with_the_same_bytes(decoders: str) -> None:
    config = {**CONFIG, "decoders": decoders}
    undisturbed = run(inputs(), config, RecordingContext())
    stopped = RecordingContext(cancel_after=9)
    with pytest.raises(CancelledError):
        run(inputs(), config, stopped)
    assert stopped.checkpoints
    found = run(inputs(), config, RecordingContext(checkpoints=stopped.checkpoints))
    assert found["dictionaries"].encode() == undisturbed["dictionaries"].encode()
    same_curves(found["training"], undisturbed["training"])


@pytest.mark.parametrize(("rule", "most"), [("topk", 5), ("batch-topk", 7)])
def test_what_is_measured_is_what_it_does_on_held_out_tokens(rule: str, most: float) -> None:
    found, metrics = trained(rule=rule, tokens=6000, k=5)
    assert (found.k, found.threshold is None) == ((5, True) if rule == "topk" else (None, False))
    x, out = read_and_written()
    features = [found.encode(layer, x[layer]) for layer in range(LAYERS)]
    for layer, measured in enumerate(metrics["layers"]):
        rebuilt = found.decode(layer, features, x[layer])
        assert measured["fvu"] == pytest.approx(fraction_unexplained(out[layer], rebuilt), rel=1e-4)
        assert (measured["kind"], measured["n_features"], measured["k"]) == ("cross-layer", 13, found.k)
        assert measured["l0"] == pytest.approx(mean_active(features[layer]))
        assert 3 < measured["l0"] <= most
        assert measured["examples"]
        assert measured["dead_share"] == pytest.approx(float((features[layer] == 0).all(0).double().mean()))


def across() -> CrossLayerTranscoder:
    """Give the neurons as a transcoder whose features could write to later layers and do not."""
    neurons = [neurons_of(block.mlp, layer) for layer, block in enumerate(MODEL.blocks)]
    blocks = [torch.zeros(LAYERS - layer, *it.w_dec.shape) for layer, it in enumerate(neurons)]
    for block, it in zip(blocks, neurons, strict=True):
        block[0] = it.w_dec
    return CrossLayerTranscoder(
        "relu",
        tuple(it.w_enc for it in neurons),
        tuple(it.b_enc for it in neurons),
        tuple(blocks),
        tuple(it.b_dec for it in neurons),
    )


def test_a_transcoder_that_writes_to_its_own_layers_is_measured_as_their_dictionaries_are() -> None:
    windows = corpus().windows("train"), corpus().windows("held-out")
    few = [torch.arange(D_MLP) < 6 for _ in range(LAYERS)]
    clt = across()
    clt = replace(clt, w_dec=tuple(it * kept[:, None] for it, kept in zip(clt.w_dec, few, strict=True)))
    apart = {
        layer: replace(neurons_of(block.mlp, layer), w_dec=clt.w_dec[layer][0])
        for layer, block in enumerate(MODEL.blocks)
    }
    one, other = (evaluate_on_corpus(MODEL, it, *windows, RecordingContext()) for it in (clt, apart))
    assert one["kl_nats"] == pytest.approx(other["kl_nats"], rel=1e-4)
    assert one["kl_nats"] > 0.01
    assert one["cross_entropy_without_mlps"] == pytest.approx(other["cross_entropy_without_mlps"])
    for here, there in zip(one["layers"], other["layers"], strict=True):
        for name in ("fvu", "fvu_linear", "kl_nats_alone", "l0", "dead_share"):
            assert here[name] == pytest.approx(there[name], rel=1e-4), name


def test_mlps_are_replaced_by_what_the_features_of_that_very_run_write() -> None:
    generator, clt = torch.Generator().manual_seed(5), across()
    clt = replace(clt, w_dec=tuple(it + 0.1 * torch.randn(it.shape, generator=generator) for it in clt.w_dec))
    held_out = corpus().windows("held-out")
    found = evaluate_on_corpus(MODEL, clt, corpus().windows("train"), held_out, RecordingContext())

    def nats(replaced: set[int]) -> float:
        divergences: list[Tensor] = []
        for number in range(len(held_out)):
            tokens = held_out.batch([number]).tokens
            features: list[Tensor] = []

            def visit(layer: int, passage: Any, features: list[Tensor] = features) -> Tensor:
                features.append(torch.relu(passage.x @ clt.w_enc[layer] + clt.b_enc[layer]))
                parts = [features[source] @ clt.w_dec[source][layer - source] for source in range(layer + 1)]
                instead = torch.stack(parts).sum(0) + clt.b_dec[layer]
                out = passage.out.clone()
                out[:, 1:] = instead[:, 1:] if layer in replaced else out[:, 1:]
                return out

            plain, other = (
                MODEL.logits(run_trunk(MODEL, tokens, it)[0, :-1]).log_softmax(-1) for it in (lambda *_: None, visit)
            )
            divergences.append((plain.exp() * (plain - other)).sum(1))
        return float(torch.cat(divergences).mean())

    assert found["kl_nats"] == pytest.approx(nats({0, 1, 2}), rel=1e-4)
    for layer, measured in enumerate(found["layers"]):
        assert measured["kl_nats_alone"] == pytest.approx(nats({layer}), rel=1e-4)


def test_exchanged_decoders_move_for_all_layers_together() -> None:
    given = across()
    control = exchanged(given, seed=4)
    assert isinstance(control, CrossLayerTranscoder)
    for before, after in zip(given.w_dec, control.w_dec, strict=True):
        torch.testing.assert_close(after.norm(dim=-1), before.norm(dim=-1))
        cosine = torch.nn.functional.cosine_similarity(after[0], before[0])
        assert float(cosine.max()) < 0.999


def test_a_trained_transcoder_is_shared_and_every_edge_through_it_is_an_effect(tmp_path: Path) -> None:
    model = tiny.tiny_model("gpt2", LAYERS)
    long = replace(model, config=replace(model.config, n_positions=17), pos_embed=torch.zeros(17, 14))
    single = tiny.map_tensors(long, Tensor.float)
    found, _ = trained(single, tokens=3000, k=4)
    circuit_tracer_clt.write(found, tmp_path, "tiny")
    read = read_folder(tmp_path).content
    assert isinstance(read, CrossLayerTranscoder)
    exact = tiny.map_tensors(read, Tensor.double)
    frozen = freeze(model, Replacement(exact, model), torch.tensor([3, 11, 7, 3, 19, 2]))
    graph = graph_of(frozen)
    assert len(graph.features) > 20
    edges_are_effects(graph, Simulation(frozen), ends(frozen).directions, sources(graph))
    assert abs(graph.rows).max() > 1e-3


def test_time_is_told_within_a_half() -> None:
    """In processor time, which other work on the machine hardly changes."""
    documents, threads = long_corpus(), torch.get_num_threads()
    config = {**CONFIG, "n_features": 507, "k": 7, "batch": 500, "tokens": 40_000, "buffer": None}
    plan = make_plan(read_config(config), MODEL, documents)
    torch.set_num_threads(1)
    try:
        told = time_training(MODEL, documents, plan, RecordingContext(), clock=time.process_time)
        began = time.process_time()
        run(inputs(documents), config, RecordingContext())["dictionaries"].encode()
        taken = time.process_time() - began
    finally:
        torch.set_num_threads(threads)
    assert told.total == pytest.approx(taken, rel=0.5)


@pytest.mark.parametrize(("decoders", "blocks"), [("untied", 6), ("tied", 3)])
def test_memory_is_that_of_all_layers_and_of_every_decoder(decoders: str, blocks: int) -> None:
    def checkpoint(**config: Any) -> int:
        read = read_config({**CONFIG, "decoders": decoders, **config})
        return memory_of(read, make_plan(read, MODEL, corpus()), MODEL, corpus()).checkpoint

    floats = 13 * D_MODEL * (LAYERS + blocks) + LAYERS * (13 + D_MODEL)
    assert checkpoint(skip=False) == 7 * 4 * floats
    assert checkpoint() == 7 * 4 * (floats + LAYERS * D_MODEL**2)


def test_what_does_not_fit_is_refused_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_estimate, "available_bytes", lambda _device: 1000)
    monkeypatch.setattr(corpus_dictionaries, "available_bytes", lambda _device: 1000)
    for start in (corpus_estimate.estimate, run):
        context = RecordingContext()
        with pytest.raises(InvalidInputError, match="GiB"):
            start(inputs(), CONFIG, context)
        assert context.reports == []


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"layers": [0, 1]}, r"layers is \(0, 1\), but a cross-layer transcoder learns all layers"),
        ({"shards": 2}, "shards is 2, but a cross-layer transcoder"),
        ({"decoders": "tied", "start": "mlp"}, "tied decoders have none for their own layer"),
        ({"kind": "auto", "decoders": "tied"}, "each dictionary writes to one layer"),
    ],
)
def test_what_does_not_go_together_is_refused(config: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        resolve({**CONFIG, **config})


def test_mlps_that_it_cannot_be_like_are_refused() -> None:
    silu = tiny_model(n_layers=LAYERS, activation="silu")
    for config, said in (({"activation": "mlp"}, "which is silu"), ({"start": "mlp"}, "these MLPs are gated")):
        with pytest.raises(InvalidInputError, match=said):
            make_plan(read_config({**CONFIG, **config}), silu, corpus())
    assert make_plan(read_config(CONFIG), silu, corpus()).start.place == "random"
