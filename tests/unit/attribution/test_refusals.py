"""What cannot be traced is refused before it is begun, with what to do instead."""

import dataclasses

import pytest
import torch

from hagd.attribution.build import LocalGraphConfig, PromptText, build_local_graph, silent
from hagd.attribution.frozen import FrozenPrompt, freeze
from hagd.attribution.replacement import Replacement
from hagd.attribution.targets import LogitChoice, difference, likeliest, of_tokens, of_vector
from hagd.errors import InvalidInputError, NonFiniteError
from unit.attribution.frozen_models import N_LAYERS, TOKENS, Simulation, frozen_prompt, mixed
from unit.hagd_coarsening.tiny import tiny_dictionary, tiny_model


@pytest.mark.parametrize("tokens", [[], [1] * 10, [23], [-1]])
def test_a_prompt_that_the_model_cannot_read_is_refused(tokens: list[int]) -> None:
    with pytest.raises(InvalidInputError):
        frozen_prompt("llama", "mixed", torch.tensor(tokens, dtype=torch.int64))


def test_dictionaries_of_another_model_are_refused() -> None:
    model = tiny_model("llama", N_LAYERS)
    deeper = {7: tiny_dictionary(model, 7, gated=False, skip=False)}
    with pytest.raises(InvalidInputError, match="layer 7"):
        Replacement(deeper, model)
    made = tiny_dictionary(model, 0, gated=False, skip=False)
    wider = dataclasses.replace(made, w_enc=torch.ones(15, 17), w_dec=torch.ones(17, 15), b_dec=torch.ones(15))
    with pytest.raises(InvalidInputError, match="width 15"):
        Replacement({0: wider}, model)


def test_a_prompt_on_which_nothing_is_active_is_refused() -> None:
    model = tiny_model("gpt2", N_LAYERS)
    dead = tiny_dictionary(model, 0, gated=False, skip=False)
    dead = dataclasses.replace(dead, b_enc=torch.full_like(dead.b_enc, -1e6))
    frozen = freeze(model, Replacement({0: dead}, model), TOKENS)
    with pytest.raises(InvalidInputError, match="no feature is active"):
        build_local_graph(frozen, PromptText("", ()), of_tokens(frozen, [1]), LocalGraphConfig(), silent)


def test_activations_that_are_no_numbers_are_told() -> None:
    model = tiny_model("gpt2", N_LAYERS)
    broken = dataclasses.replace(model, embed=model.embed * float("inf"))
    with pytest.raises(NonFiniteError):
        freeze(broken, Replacement(mixed(model), model), TOKENS)


def test_frozen_pieces_that_are_not_those_of_the_run_are_found_out() -> None:
    frozen = frozen_prompt("llama", "mixed")
    layer = dataclasses.replace(frozen.layers[1], pattern=frozen.layers[1].pattern * 1.01)
    with pytest.raises(NonFiniteError, match="differs from the run"):
        dataclasses.replace(frozen, layers=(frozen.layers[0], layer, *frozen.layers[2:])).check()


def test_a_position_that_dwarfs_all_others_hides_nothing_of_them() -> None:
    model, tokens = tiny_model("llama", N_LAYERS), torch.tensor([5, 11, 7, 3])
    embed = model.embed.clone()
    embed[tokens[0]] *= 1e6
    model = dataclasses.replace(model, embed=embed)
    frozen = freeze(model, Replacement(mixed(model), model), tokens)
    layer = dataclasses.replace(frozen.layers[1], pattern=frozen.layers[1].pattern * 1.01)
    with pytest.raises(NonFiniteError, match="differs from the run"):
        dataclasses.replace(frozen, layers=(frozen.layers[0], layer, *frozen.layers[2:])).check()


def with_stronger_features(frozen: FrozenPrompt) -> FrozenPrompt:
    """Give the first layer's features a hundredth more than they wrote."""
    features = frozen.layers[0].features
    features = dataclasses.replace(features, values=features.values * 1.01)
    return dataclasses.replace(
        frozen, layers=(dataclasses.replace(frozen.layers[0], features=features), *frozen.layers[1:])
    )


@pytest.mark.parametrize("kind", ["mixed", "cross-layer", "neurons"])
def test_features_and_errors_that_do_not_make_what_an_mlp_wrote_are_found_out(kind: str) -> None:
    with pytest.raises(NonFiniteError, match="differs from the run"):
        with_stronger_features(frozen_prompt("llama", kind)).check()


@pytest.mark.parametrize("half", [False, True])
def test_edges_that_do_not_add_up_to_what_a_node_read_are_found_out(half: bool) -> None:
    """Products in bfloat16 are allowed more, so there features are made stronger a hundred times."""
    frozen = frozen_prompt("llama", "mixed")
    for _ in range(100 if half else 1):
        frozen = with_stronger_features(frozen)
    text, config = PromptText("", ()), LocalGraphConfig(half=half)
    with pytest.raises(NonFiniteError, match="the edges into nodes differ") as found:
        build_local_graph(frozen, text, of_tokens(frozen, [3]), config, silent)
    assert ("half" in found.value.hint) is half


@pytest.mark.parametrize("most", [0, -3])
def test_a_graph_of_no_features_is_refused(most: int) -> None:
    frozen = frozen_prompt("llama", "mixed")
    config = LocalGraphConfig(most_features=most)
    with pytest.raises(InvalidInputError):
        build_local_graph(frozen, PromptText("", ()), of_tokens(frozen, [3]), config, silent)


def test_targets_that_do_not_exist_are_refused() -> None:
    frozen = frozen_prompt("gpt2", "mixed")
    with pytest.raises(InvalidInputError):
        difference(frozen, 3, 3, "nothing")
    for wrong in ([], [23], [-1], [3, 3]):
        with pytest.raises(InvalidInputError):
            of_tokens(frozen, wrong)
    for vector in (torch.zeros(14), torch.full((14,), float("nan")), torch.ones(3)):
        with pytest.raises(InvalidInputError):
            of_vector(frozen, vector, "x")
    for choice in (LogitChoice(0.0), LogitChoice(1.5), LogitChoice(most=0)):
        with pytest.raises(InvalidInputError):
            likeliest(frozen, choice)


def test_a_difference_and_a_vector_are_rows_like_logits() -> None:
    frozen = frozen_prompt("gpt2", "mixed")
    text, config = PromptText("", ()), LocalGraphConfig()
    direction = torch.arange(14, dtype=torch.float64)
    for targets in (difference(frozen, 3, 5, "3 - 5"), of_vector(frozen, direction, "ramp")):
        graph = build_local_graph(frozen, text, targets, config, silent)
        assert graph.rows[-1].sum() + graph.biases[-1] == pytest.approx(graph.scalars[-1], abs=1e-5)
        expected = Simulation(frozen).scalars({}, targets.directions)[-1]
        assert graph.scalars[-1] == pytest.approx(float(expected), abs=1e-5)
