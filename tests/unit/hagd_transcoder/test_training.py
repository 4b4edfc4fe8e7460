"""Training dictionaries: where it starts, what it reaches, and that stopping it changes nothing."""

from dataclasses import fields, replace

import pytest
import torch

from hagd.dictionaries.dictionary import Dictionary
from hagd.dictionaries.metrics import fraction_unexplained
from hagd.dictionaries.storage import dictionaries_from_document
from hagd.errors import CancelledError, InvalidInputError, NonFiniteError
from hagd.interventions.activations import Subject, record
from hagd.models.attention import project_heads
from hagd.models.storage import model_to_document
from hagd.tasks.storage import task_to_document
from hagd.testing import RecordingContext
from hagd_transcoder.dictionaries import learn, make_plan, run
from hagd_transcoder.domain.discovery import Discovery
from hagd_transcoder.domain.learner import (
    DEAD_AFTER,
    auxiliary_loss,
    balance_loss,
    count_directions,
    nested_loss,
    start_learner,
)
from hagd_transcoder.domain.plan import TrainingPlan
from hagd_transcoder.domain.training import train
from hagd_transcoder.handlers import TranscoderConfig
from unit.hagd_transcoder.tiny_subjects import D_MLP, D_MODEL, N_POS, tiny_batch, tiny_model, tiny_task


def plan_of(**config: object) -> TrainingPlan:
    return make_plan(TranscoderConfig.model_validate(config), tiny_model(), 67, N_POS)


def inputs(count: int = 97) -> torch.Tensor:
    return torch.randn(count, D_MODEL, generator=torch.Generator().manual_seed(5))


def assert_equal(first: Dictionary, second: Dictionary) -> None:
    for field in fields(Dictionary):
        left, right = getattr(first, field.name), getattr(second, field.name)
        assert torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right, field.name


@pytest.mark.parametrize(("activation", "n_features"), [("relu", 11), ("relu", 17), ("gelu_new", 13), ("silu", 11)])
def test_a_dictionary_at_least_as_wide_as_the_mlp_starts_exact(activation: str, n_features: int) -> None:
    model = tiny_model(activation=activation)
    config = TranscoderConfig(n_features=n_features)
    plan = make_plan(config, model, 67, N_POS)
    learner = start_learner(plan, model.blocks[0].mlp, 0, inputs()[:, None], torch.Generator().manual_seed(0))
    dictionary, x = replace(learner.finished(), k=None), inputs()
    assert fraction_unexplained(model.blocks[0].mlp(x), dictionary.decode(dictionary.encode(x), x)) < 1e-10


def test_a_narrow_dictionary_starts_at_the_neurons_used_most() -> None:
    model, x = tiny_model(), inputs()
    mlp = model.blocks[0].mlp
    plan = make_plan(TranscoderConfig(n_features=3), model, 67, N_POS)
    learner = start_learner(plan, mlp, 0, x[:, None], torch.Generator().manual_seed(0))
    usage = mlp.neurons(x).mean(0) * mlp.w_out.norm(dim=1)
    assert torch.equal(learner.tensors["w_enc"], mlp.w_in[:, usage.topk(3).indices])


def test_directions_are_counted_per_position_and_the_median_taken() -> None:
    draw = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(7, 7, generator=draw)).Q
    ranks = (1, 3, 5)
    out = torch.stack([torch.randn(997, rank, generator=draw) @ basis[:rank] for rank in ranks], dim=1) + 4
    assert count_directions(out) == 3


def test_k_falls_geometrically_over_the_first_60_percent_of_the_steps() -> None:
    plan = replace(plan_of(steps=100), k_start=64, k=4)
    assert [plan.k_at(step) for step in (0, 15, 30, 45, 60, 99)] == [64, 32, 16, 8, 4, 4]


def test_the_learning_rate_warms_up_stays_and_falls() -> None:
    plan = plan_of(steps=100, learning_rate=1.0)
    assert plan.learning_rate_at(0) == pytest.approx(0.1)
    assert plan.learning_rate_at(40) == 1
    assert plan.learning_rate_at(99) == pytest.approx(0.03)


def test_small_relu_models_train_circuits_and_gated_ones_only_rebuild() -> None:
    relu, gated = plan_of(), make_plan(TranscoderConfig(), tiny_model(activation="silu"), 67, N_POS)
    assert (relu.kind, relu.behaviour, relu.balance, relu.k) == ("transcoder", 1.0, 1.0, 5)
    assert (gated.kind, gated.behaviour, gated.balance, gated.k) == ("gated", 0.0, 0.0, 11)


def test_a_plan_that_does_not_fit_the_model_is_refused() -> None:
    model = tiny_model()
    for config, message in (
        ({"kind": "gated"}, "have no gate"),
        ({"layers": (1,)}, "the model has 1"),
        ({"k": 12}, "k is 12, but there are only 11 features"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            make_plan(TranscoderConfig.model_validate(config), model, 67, N_POS)
    with pytest.raises(InvalidInputError, match="are gated"):
        make_plan(TranscoderConfig(kind="transcoder"), tiny_model(activation="silu"), 67, N_POS)


def test_the_nested_loss_of_a_prefix_is_the_centred_error_without_the_rest() -> None:
    model, x = tiny_model(), inputs()[:, None]
    learner = start_learner(plan_of(), model.blocks[0].mlp, 0, x, torch.Generator().manual_seed(0))
    out = model.blocks[0].mlp(x)
    dictionary = learner.dictionary(None)
    features = dictionary.encode(x)
    alone = features[..., :4] @ dictionary.w_dec[:4] + 7.0
    difference = (out - alone) - (out - alone).mean(0)
    expected = difference.square().sum(-1).mean() / learner.variance
    found = nested_loss(learner, out - dictionary.decode(features, x), features, 4)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_balance_asks_only_of_features_that_fire_too_rarely() -> None:
    model = tiny_model()
    learner = start_learner(
        plan_of(rate=0.3), model.blocks[0].mlp, 0, inputs()[:, None], torch.Generator().manual_seed(0)
    )
    never, always = torch.full((13, D_MLP), -1e6), torch.full((13, D_MLP), 1e6)
    assert float(balance_loss(learner, never).detach()) == pytest.approx(D_MLP * 0.09)
    assert float(balance_loss(learner, always).detach()) == 0


def test_dead_features_learn_to_rebuild_the_error_and_the_living_are_left_alone() -> None:
    model, x = tiny_model(), inputs()
    learner = start_learner(plan_of(), model.blocks[0].mlp, 0, x[:, None], torch.Generator().manual_seed(0))
    dictionary, error = learner.dictionary(5), torch.ones(97, D_MODEL)
    assert auxiliary_loss(learner, dictionary, error, x) is None
    learner.idle[3] = DEAD_AFTER + 1
    loss = auxiliary_loss(learner, dictionary, error, x)
    assert loss is not None
    (gradient,) = torch.autograd.grad(loss, learner.tensors["w_dec"])
    assert gradient[3].abs().max() > 0
    assert gradient[[0, 1, 2, 4]].abs().max() == 0


def test_training_beats_the_same_k_without_training() -> None:
    model, batch = tiny_model(), tiny_batch(67)
    config = TranscoderConfig(k=3, steps=60, behaviour=0.0, balance=0.0)
    plan = make_plan(config, model, 67, N_POS)
    trained = train(model, [batch], plan, RecordingContext())[0]
    x = Discovery(model, [batch]).first(67).activations.mlp_in[0][:, -1]
    out = model.blocks[0].mlp(x)
    start = start_learner(plan, model.blocks[0].mlp, 0, x[:, None], torch.Generator().manual_seed(0)).dictionary(3)
    before = fraction_unexplained(out, start.decode(start.encode(x), x).detach())
    after = fraction_unexplained(out, trained.decode(trained.encode(x), x))
    assert trained.k == 3
    assert after < 0.7 * before


@pytest.mark.parametrize(("n_layers", "activation"), [(1, "relu"), (2, "relu"), (2, "silu")])
def test_a_stopped_and_resumed_training_ends_with_the_same_bytes(n_layers: int, activation: str) -> None:
    model, batches = tiny_model(n_layers, activation), [tiny_batch(67)]
    config = TranscoderConfig(steps=40, k=4, n_features=13, batch=16)
    plan = make_plan(config, model, 67, N_POS)
    whole = train(model, batches, plan, RecordingContext())
    stopped = RecordingContext(cancel_after=3)
    with pytest.raises(CancelledError):
        train(model, batches, plan, stopped)
    step, _ = stopped.load_checkpoint() or (0, None)
    assert 0 < step < 40
    resumed = train(model, batches, plan, RecordingContext(checkpoints=stopped.checkpoints))
    for layer, dictionary in whole.items():
        assert_equal(dictionary, resumed[layer])


def test_another_seed_gives_another_dictionary_and_the_global_seed_does_not() -> None:
    model, batches = tiny_model(), [tiny_batch(67)]

    def trained(seed: int) -> torch.Tensor:
        torch.manual_seed(seed + 100)
        plan = make_plan(TranscoderConfig(steps=5, seed=seed % 2), model, 67, N_POS)
        return train(model, batches, plan, RecordingContext())[0].w_dec

    assert torch.equal(trained(0), trained(2))
    assert not torch.equal(trained(0), trained(1))


def test_a_diverging_training_stops_with_the_remedy() -> None:
    plan = replace(plan_of(steps=5), learning_rate=1e30)
    with pytest.raises(NonFiniteError, match="diverged") as caught:
        train(tiny_model(), [tiny_batch(67)], plan, RecordingContext())
    assert "learning_rate" in caught.value.hint


def test_neurons_are_exact_in_every_reported_number() -> None:
    model, task = tiny_model(2), tiny_task()
    dictionaries, metrics = learn(model, task, TranscoderConfig(kind="neurons"), RecordingContext())
    assert sorted(dictionaries) == [0, 1]
    for layer in metrics["layers"]:
        assert layer["fvu"] == pytest.approx(0, abs=1e-10)
        assert 0 < layer["fvu_linear"] < 1.5
    assert metrics["kl_nats"] == pytest.approx(0, abs=1e-5)
    assert metrics["cross_entropy_replaced"] == pytest.approx(metrics["cross_entropy"], abs=1e-5)


def test_the_stage_reads_artifacts_and_writes_one_that_comes_back() -> None:
    model, task = tiny_model(2), tiny_task()
    documents = {"model": model_to_document(model), "task": task_to_document(task)}
    context = RecordingContext()
    out = run(documents, {"layers": [1], "steps": 20, "skip": True}, context)
    read = dictionaries_from_document(out["dictionaries"])
    metrics = out["dictionaries"].content["metrics"]
    assert list(read) == [1]
    assert read[1].w_skip is not None
    assert metrics["plan"]["k"] == 5
    assert metrics["layers"][0]["layer"] == 1
    assert context.reports[-1][2].startswith("measuring")


def test_metrics_with_errors_zeroed_match_a_model_whose_mlps_are_the_dictionaries() -> None:
    model, task = tiny_model(1), tiny_task()
    dictionaries, metrics = learn(model, task, TranscoderConfig(steps=20, k=2), RecordingContext())
    batch = task.batches["select"][0]
    run_ = record(Subject(model, dictionaries), batch.clean, batch.layout.answer_positions)
    attended = project_heads(model.blocks[0].attention, run_.heads[0])
    resid = run_.embed + model.position_part(N_POS) + attended
    mlp_out = run_.features[0] @ dictionaries[0].w_dec + dictionaries[0].b_dec
    logits = model.logits((resid + mlp_out)[:, list(batch.layout.answer_positions)])
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.answers.flatten())
    assert metrics["cross_entropy_replaced"] == pytest.approx(float(expected), rel=1e-4)
