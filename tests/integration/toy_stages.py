"""Five small stages in the places of the built-in ones: no torch, milliseconds, the same roles and documents.

`install` makes them known to this process and to every process that it starts, as a third party's package would.
"""

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hagd.artifacts.document import Document
from hagd.errors import AccuracyGateError, InvalidInputError
from hagd.pipeline.contract import Config, StageContext, StageSpec

Documents = Mapping[str, Document]
PLACES = ("subject", "transcoder", "coarsening", "traversal", "verification")
USE = [part for place in PLACES for part in ("--use", f"{place}=toy-{place}")]
LOCAL = frozenset({"journal", "pause_seconds"})


def resolve(config: Config) -> dict[str, Any]:
    """Accept everything but the field `refused`."""
    if "refused" in config:
        raise InvalidInputError("toy: the field 'refused' is refused", "leave it out")
    return dict(config)


def begin(config: Config, context: StageContext, stage: str) -> None:
    """Leave a line in the journal, take the time asked for, report progress."""
    if "journal" in config:
        with Path(config["journal"]).open("a") as stream:
            stream.write(f"{stage}\n")
    steps = 20 if config.get("pause_seconds") else 2
    for step in range(steps):
        time.sleep(config.get("pause_seconds", 0.0) / steps)
        context.progress(step + 1, steps, f"{stage} at work")
    if config.get("fail"):
        raise AccuracyGateError("the model knows 3 of 7", "train it longer")


def prepare(inputs: Documents, config: Config, context: StageContext) -> Documents:
    begin(config, context, "subject")
    model: dict[str, Any] = {"seed": config["model"].get("seed", 0)}
    if "ballast_bytes" in config:
        model["ballast"] = "x" * int(config["ballast_bytes"])
    return {"model": Document(model), "task": Document(dict(config["task"]))}


def train(inputs: Documents, config: Config, context: StageContext) -> Documents:
    begin(config, context, "transcoder")
    return {
        "dictionaries": Document(
            {"metrics": {"layers": [{"fvu": 0.25, "l0": 7.0, "layer": 0, "seed": [1]}], "kl_nats": 0.5}}
        )
    }


def coarsen(inputs: Documents, config: Config, context: StageContext) -> Documents:
    from hagd.graphs.storage import graph_to_document, hierarchy_to_document  # noqa: PLC0415
    from integration import toy_results  # noqa: PLC0415

    begin(config, context, "coarsening")
    return {
        "graph": graph_to_document(toy_results.GRAPH),
        "hierarchy": hierarchy_to_document(toy_results.HIERARCHY),
    }


def search(inputs: Documents, config: Config, context: StageContext) -> Documents:
    from hagd.graphs.storage import circuit_to_document  # noqa: PLC0415
    from integration import toy_results  # noqa: PLC0415

    begin(config, context, "traversal")
    return {"circuit": circuit_to_document(toy_results.circuit(config.get("max_nodes", 3)))}


def judge(inputs: Documents, config: Config, context: StageContext) -> Documents:
    from integration import toy_results  # noqa: PLC0415

    begin(config, context, "verification")
    data = toy_results.EVIDENCE | {"verdict": config.get("verdict", "verified")}
    return {"verification": Document({"schema": "hagd.cli/v1", "kind": "verification", "data": data})}


def _spec(place: str, inputs: tuple[str, ...], outputs: tuple[str, ...], function: str) -> StageSpec:
    run = f"integration.toy_stages:{function}"
    return StageSpec(f"toy-{place}", 1, inputs, outputs, run, resolve, LOCAL, title=f"Toy {place}")


SUBJECT = _spec("subject", (), ("model", "task"), "prepare")
TRANSCODER = _spec("transcoder", ("model", "task"), ("dictionaries",), "train")
COARSENING = _spec("coarsening", ("model", "task", "dictionaries"), ("graph", "hierarchy"), "coarsen")
TRAVERSAL = _spec("traversal", ("graph", "hierarchy"), ("circuit",), "search")
VERIFICATION = _spec("verification", ("circuit",), ("verification",), "judge")


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a distribution with these stages into `folder` and onto the path of this process and its children."""
    info = folder / "hagd_toy_stages-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hagd-toy-stages\nVersion: 1.0\n")
    lines = [f"toy-{place} = integration.toy_stages:{place.upper()}" for place in PLACES]
    (info / "entry_points.txt").write_text("[hagd.stages]\n" + "\n".join(lines) + "\n")
    tests = str(Path(__file__).parents[1])
    monkeypatch.setattr(sys, "path", [*sys.path, str(folder), tests])
    known = [path for path in [os.environ.get("PYTHONPATH", "")] if path]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*known, str(folder), tests]))
