"""What a user says, as configs of stages."""

import hashlib
from pathlib import Path

import pytest

from hagd.cli.options import read_settings
from hagd.errors import InvalidInputError, UnknownNameError, UsageError
from hagd.extraction.plan import build_plan, default_folder, use_of
from hagd.extraction.settings import Settings, parse_assignments, stage_configs
from hagd.pipeline.request import PlanEntry


def test_the_main_example_means_what_it_says() -> None:
    assert stage_configs(Settings(task="modular-addition", modulus=113)) == {
        "subject": {"task": {"name": "modular-addition", "modulus": 113}, "model": {"train": True, "seed": 0}},
        "transcoder": {},
        "coarsening": {},
        "traversal": {},
        "verification": {},
    }


def test_a_seed_reaches_every_stage() -> None:
    configs = stage_configs(Settings(task="parity", seed=5))
    assert configs["subject"]["model"]["seed"] == 5
    assert [config["seed"] for config in configs.values()] == [5] * 5


def test_the_resolution_is_that_of_graph_and_search() -> None:
    configs = stage_configs(Settings(task="parity", resolution="mixed"))
    assert configs["coarsening"] == configs["traversal"] == {"resolution": "mixed"}


def test_sizes_bound_the_search_and_set_the_curve() -> None:
    configs = stage_configs(Settings(task="parity", sizes=(49, 106, 70)))
    assert configs["traversal"] == {"max_nodes": 106}
    assert configs["verification"] == {"sizes": [49, 106, 70]}


def test_prompts_are_named_by_path_and_content(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b"{}\n")
    task = stage_configs(Settings(prompts=path, model="smollm2"))["subject"]["task"]
    assert task == {"name": "jsonl", "path": str(path), "digest": hashlib.sha256(b"{}\n").hexdigest()}


def test_a_model_folder_is_named_absolutely_and_a_hub_id_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    local = stage_configs(Settings(task="ioi", model="tiny", gguf="a.gguf"))
    assert local["subject"]["model"] == {"path": str(tmp_path / "tiny"), "gguf": "a.gguf"}
    hub = stage_configs(Settings(task="ioi", model="someone/tiny", revision="v2"))
    assert hub["subject"]["model"] == {"path": "someone/tiny", "revision": "v2"}


def test_overrides_lie_over_all_and_within_groups() -> None:
    overrides = parse_assignments(["subject.task.modulus=31", "transcoder.k=32", "transcoder.kind=neurons"])
    configs = stage_configs(Settings(task="modular-addition", modulus=7, dictionary="gated", overrides=overrides))
    assert configs["subject"]["task"] == {"name": "modular-addition", "modulus": 31}
    assert configs["transcoder"] == {"kind": "neurons", "k": 32}


def test_given_dictionaries_take_the_place_of_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    settings = Settings(task="parity", dictionaries="mine", seed=5)
    assert [entry.stage_id for entry in build_plan(settings, upto="coarsening")] == [
        "subject",
        "dictionary-import",
        "coarsening",
    ]
    config = stage_configs(settings)["transcoder"]
    assert config["dictionaries"] == str(tmp_path / "mine")
    (tmp_path / "mine" / "config.json").write_text("{} ")
    assert stage_configs(settings)["transcoder"]["dictionaries_digest"] != config["dictionaries_digest"]


@pytest.mark.parametrize(
    ("given", "use", "complaint"),
    [
        ({"dictionary": "gated"}, {}, "both a kind of dictionary and dictionaries"),
        ({"dictionaries": "neurons"}, {}, "'neurons' is a kind"),
        ({}, {"transcoder": "transcoder"}, "both dictionaries and a stage"),
        ({"dictionaries": "nowhere"}, {}, "no dictionaries at .*nowhere"),
        ({"dictionaries": " "}, {}, "no name"),
    ],
)
def test_what_contradicts_given_dictionaries_is_told(
    given: dict[str, str], use: dict[str, str], complaint: str
) -> None:
    with pytest.raises(UsageError, match=complaint):
        build_plan(Settings(**{"task": "parity", "dictionaries": "mine", **given}), use=use)


@pytest.mark.parametrize(
    ("text", "value"),
    [("a.b=7", 7), ("a.b=0.5", 0.5), ("a.b=true", True), ("a.b=[1, 2]", [1, 2]), ("a.b=x=y", "x=y"), ("a.b=", "")],
)
def test_a_value_is_json_or_else_text(text: str, value: object) -> None:
    assert parse_assignments([text]) == {"a": {"b": value}}


@pytest.mark.parametrize("text", ["a=7", "a.b", ".b=7", "a..b=7"])
def test_an_assignment_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        parse_assignments([text])


def test_a_value_cannot_be_a_group_too() -> None:
    with pytest.raises(UsageError, match="both as a value and as a group"):
        parse_assignments(["a.b=7", "a.b.c=8"])


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        (Settings(), UsageError),
        (Settings(task="chess"), UnknownNameError),
        (Settings(task="jsonl"), UsageError),
        (Settings(task="facts"), UsageError),
        (Settings(task="parity", budget=-1), InvalidInputError),
        (Settings(task="parity", sizes=(7, 0)), InvalidInputError),
        (Settings(task="parity", seed=-1), InvalidInputError),
        (Settings(task="parity", threshold=float("nan")), InvalidInputError),
        (Settings(task="parity", prompts=Path("p.jsonl"), model="m"), UsageError),
        (Settings(prompts=Path("/nonexistent/p.jsonl"), model="m"), InvalidInputError),
    ],
)
def test_what_cannot_be_is_refused_with_a_hint(settings: Settings, error: type) -> None:
    with pytest.raises(error) as caught:
        stage_configs(settings)
    assert caught.value.hint


def test_options_become_settings() -> None:
    settings = read_settings(task="parity", sizes="49, 70", assign=["coarsening.branching=4"])
    assert settings.sizes == (49, 70)
    assert settings.overrides == {"coarsening": {"branching": 4}}
    with pytest.raises(UsageError, match="cannot read the sizes"):
        read_settings(sizes="49;70")


def test_equal_plans_share_a_folder_and_others_do_not() -> None:
    plans = [(PlanEntry("subject", 1, {"seed": seed}),) for seed in (0, 0, 1)]
    folders = [default_folder(Settings(task="parity"), plan) for plan in plans]
    assert folders[0] == folders[1] != folders[2]
    assert folders[0].parts[0] == "runs"


def test_a_swap_is_read_as_place_and_stage() -> None:
    assert use_of(["transcoder=mine", "traversal=theirs"]) == {"transcoder": "mine", "traversal": "theirs"}
    with pytest.raises(UsageError, match="cannot read"):
        use_of(["transcoder"])
