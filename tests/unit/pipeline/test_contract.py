"""The task key names what determines a result, and nothing else."""

import hashlib
from dataclasses import replace
from importlib.metadata import EntryPoint

import pytest

from hagd.artifacts.reference import ArtifactRef
from hagd.errors import HagdError, InvalidInputError, UnknownNameError
from hagd.pipeline import stages
from hagd.pipeline.contract import task_key
from hagd.pipeline.request import PlanEntry, Request, run_id_of
from hagd.pipeline.stages import check_plan, discover_stages, find_stage, identity_of, plan_entry
from unit.pipeline.toy_stages import NUMBERS, STAGES, TOTAL, VERDICT

REF = ArtifactRef("0" * 64, 7, "x/y")
PLAN = (PlanEntry("numbers", 1, {"seed": 7}), PlanEntry("total", 1), PlanEntry("verdict", 2))


def request(plan: tuple[PlanEntry, ...] = PLAN, **labels: str) -> Request:
    return Request("me", "first", plan, {}, labels)


def test_the_key_changes_with_content_version_and_config_but_not_with_local_fields() -> None:
    base = task_key(TOTAL, {"numbers": REF}, {})
    assert base == task_key(TOTAL, {"numbers": replace(REF, media_type="other")}, {"journal": "/somewhere"})
    others = {
        task_key(TOTAL, {"numbers": replace(REF, sha256="1" * 64)}, {}),
        task_key(replace(TOTAL, semantics_version=2), {"numbers": REF}, {}),
        task_key(replace(TOTAL, id="sum"), {"numbers": REF}, {}),
        task_key(TOTAL, {"numbers": REF}, {"seed": 1}),
    }
    assert len({base} | others) == 5


def test_the_key_of_a_known_task_never_changes_by_itself() -> None:
    content = b'{"config":{"seed":7},"inputs":{},"semantics_version":1,"stage":"numbers"}'
    assert task_key(NUMBERS, {}, {"seed": 7}) == hashlib.sha256(content).hexdigest()


def test_a_run_is_named_by_who_asks_and_how_they_call_it() -> None:
    assert run_id_of("me", "first") == run_id_of("me", "first")
    assert len({run_id_of("me", "first"), run_id_of("m", "efirst"), run_id_of("me", "second")}) == 3


@pytest.mark.parametrize("name", ["", "A", "a/b", "a..b", ".a", "a b", "x" * 201])
def test_names_that_cannot_be_keys_are_refused(name: str) -> None:
    with pytest.raises(InvalidInputError, match="cannot be a request id"):
        Request("me", name, PLAN)
    with pytest.raises(InvalidInputError, match="cannot be a principal"):
        Request(name, "first", PLAN)


def test_a_request_survives_json_and_an_empty_plan_is_refused() -> None:
    asked = Request("me", "first", PLAN, {"numbers": REF}, {"note": "é"})
    assert Request.from_json(asked.to_json()) == asked
    with pytest.raises(InvalidInputError, match="names no stage"):
        request(())
    with pytest.raises(InvalidInputError, match="not a request"):
        Request.from_json({"principal": "me"})


def test_a_good_plan_gives_its_stages() -> None:
    assert check_plan(request(), STAGES) == [NUMBERS, TOTAL, VERDICT]


def test_an_unknown_stage_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="no stage is called 'sum'") as caught:
        check_plan(request((PlanEntry("sum", 1),)), STAGES)
    assert "numbers, total, verdict" in caught.value.hint


def test_an_unknown_stage_is_answered_with_the_installed_ones() -> None:
    with pytest.raises(UnknownNameError) as caught:
        find_stage("no-such-stage")
    assert "transcoder" in caught.value.hint


def test_a_plan_of_another_version_is_refused_before_it_starts() -> None:
    with pytest.raises(InvalidInputError, match="asks for version 9 of stage 'numbers', installed is version 1"):
        check_plan(request((replace(PLAN[0], semantics_version=9),)), STAGES)


def test_a_plan_with_an_input_that_nobody_gives_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="'total' needs numbers, which no earlier stage gives"):
        check_plan(request(PLAN[1:]), STAGES)
    check_plan(replace(request(PLAN[1:]), inputs={"numbers": REF}), STAGES)


def test_a_config_that_the_stage_refuses_is_refused_before_it_starts() -> None:
    with pytest.raises(InvalidInputError, match="unknown settings: colour"):
        check_plan(request((PlanEntry("numbers", 1, {"colour": 1}),)), STAGES)
    with pytest.raises(InvalidInputError):
        plan_entry("numbers", {"colour": 1}, STAGES)
    assert plan_entry("verdict", {"threshold": 1.0}, STAGES) == PlanEntry("verdict", 2, {"threshold": 1.0})


def test_a_config_that_the_stage_cannot_divide_is_refused_before_it_starts() -> None:
    with pytest.raises(InvalidInputError, match="stage 'total' cannot use its config: TypeError: 'str' object"):
        check_plan(request((PLAN[0], PlanEntry("total", 1, {"shards": "many"}))), STAGES)
    with pytest.raises(InvalidInputError, match="stage 'total' cannot use its config"):
        plan_entry("total", {"shards": "many"}, STAGES)


def test_labels_and_local_fields_are_no_part_of_the_identity() -> None:
    base = identity_of(request(), STAGES)
    local = (replace(PLAN[0], config={"seed": 7, "journal": "/x"}), *PLAN[1:])
    assert identity_of(request(local, note="x"), STAGES) == base
    assert identity_of(request((replace(PLAN[0], config={"seed": 8}), *PLAN[1:])), STAGES) != base


def test_an_entry_point_that_cannot_be_loaded_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "entry_points", lambda group: [EntryPoint("lost", "no_such_module:STAGE", group)])
    with pytest.raises(HagdError, match="stage 'lost' cannot be loaded from no_such_module:STAGE"):
        find_stage("lost")
    with pytest.raises(HagdError, match="stage 'lost' cannot be loaded"):
        find_stage("lost", STAGES)
    assert discover_stages() == {}
    monkeypatch.setattr(stages, "entry_points", lambda group: [EntryPoint("odd", "math:pi", group)])
    with pytest.raises(HagdError, match="math:pi is no StageSpec"):
        find_stage("odd")
