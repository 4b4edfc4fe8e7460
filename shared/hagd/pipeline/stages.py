"""Finding stages by entry point, and checking a plan against them before anything starts."""

import hashlib
import logging
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Final

import rfc8785

from hagd.errors import HagdError, InvalidInputError, UnknownNameError
from hagd.pipeline.contract import Config, StageSpec
from hagd.pipeline.request import PlanEntry, Request

GROUP: Final = "hagd.stages"
_LOG: Final = logging.getLogger(__name__)


def discover_stages() -> dict[str, StageSpec]:
    """Load every installed stage by its id; none of them loads torch.

    One that cannot be loaded is passed over with a warning, because the others can still work; who asks for it by
    name learns the reason from `find_stage`.
    """
    found: dict[str, StageSpec] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        try:
            spec = _load(point)
        except HagdError as error:
            _LOG.warning("%s", error.message)
        else:
            found[spec.id] = spec
    return found


def find_stage(stage_id: str, stages: Mapping[str, StageSpec] | None = None) -> StageSpec:
    """Give one stage by its id, from `stages` or else from the installed ones, of which only that one is loaded.

    Raises:
        UnknownNameError: there is none; the message lists the known ones.
        HagdError: it is installed and cannot be loaded.
    """
    if stages is not None and stage_id in stages:
        return stages[stage_id]
    points = {point.name: point for point in entry_points(group=GROUP)}
    spec = _load(points[stage_id]) if stage_id in points else None
    if spec is not None and stages is None:
        return spec
    known = ", ".join(sorted(points if stages is None else stages)) or "none"
    raise UnknownNameError(f"no stage is called {stage_id!r}", f"known stages: {known}; is its package installed?")


def plan_entry(stage_id: str, config: Config, stages: Mapping[str, StageSpec] | None = None) -> PlanEntry:
    """Give the plan entry of an installed stage, its config checked.

    Raises:
        UnknownNameError: there is no such stage.
        UsageError: the config is refused by the stage, or holds what JSON cannot.
    """
    spec = find_stage(stage_id, stages)
    _check_config(spec, config)
    try:
        rfc8785.dumps(dict(config))
    except (rfc8785.CanonicalizationError, UnicodeError) as error:
        raise InvalidInputError(
            f"the config of stage {spec.id!r} cannot be written as JSON: {error}", "whole numbers end at 2^53 - 1"
        ) from error
    return PlanEntry(spec.id, spec.semantics_version, dict(config))


def check_plan(request: Request, stages: Mapping[str, StageSpec] | None = None) -> list[StageSpec]:
    """Check that every stage is known, is of the version asked for, accepts its config and gets its inputs.

    Raises:
        UnknownNameError, UsageError: as `plan_entry`.
        InvalidInputError: a stage is of another version, or an input is given by nobody.
    """
    roles = set(request.inputs)
    specs: list[StageSpec] = []
    for entry in request.plan:
        spec = find_stage(entry.stage_id, stages)
        if spec.semantics_version != entry.semantics_version:
            raise InvalidInputError(
                f"the plan asks for version {entry.semantics_version} of stage {spec.id!r}, "
                f"installed is version {spec.semantics_version}",
                "install the release that made the plan, or start a new run",
            )
        missing = sorted(set(spec.inputs) - roles)
        if missing:
            raise InvalidInputError(
                f"stage {spec.id!r} needs {', '.join(missing)}, which no earlier stage gives",
                "add the stage that makes it, or give it as an input of the request",
            )
        _check_config(spec, entry.config)
        roles |= set(spec.outputs)
        specs.append(spec)
    return specs


def identity_of(request: Request, stages: Mapping[str, StageSpec] | None = None) -> str:
    """Give sha256 of all that determines the results of a request: labels and local fields are left out."""
    plan = [
        [spec.id, spec.semantics_version, _affecting(spec, entry.config)]
        for spec, entry in zip(check_plan(request, stages), request.plan, strict=True)
    ]
    inputs = {role: ref.sha256 for role, ref in request.inputs.items()}
    return hashlib.sha256(rfc8785.dumps([request.principal, request.request_id, plan, inputs])).hexdigest()


def _check_config(spec: StageSpec, config: Config) -> None:
    """Ask a stage about a config as its loop will: what the loop would stumble over is refused here."""
    try:
        spec.resolve(config)
        if spec.sharding is not None:
            spec.sharding.split(config)
    except HagdError:
        raise
    except Exception as error:
        raise InvalidInputError(
            f"stage {spec.id!r} cannot use its config: {type(error).__name__}: {error}", "check its fields"
        ) from error


def _affecting(spec: StageSpec, config: Config) -> dict[str, object]:
    return {name: value for name, value in spec.resolve(config).items() if name not in spec.local_fields}


def _load(point: EntryPoint) -> StageSpec:
    try:
        spec = point.load()
    except (ImportError, AttributeError) as error:
        raise HagdError(
            f"stage {point.name!r} cannot be loaded from {point.value}: {error}", "install its package again"
        ) from error
    if not isinstance(spec, StageSpec):
        raise HagdError(f"{point.value} is no StageSpec", "the entry point group hagd.stages names StageSpec values")
    return spec
