"""Circuit sizes, preservation and controls on the algorithmic tasks and on a real model (`make bench-circuits`).

Every number comes from ordinary runs of the command line; the matched random circuits at fixed sizes are drawn here
with the verification stage's own functions. Learned dictionaries stand beside the MLP's own neurons. Five model seeds.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tables import BUILD, Row, report
from hagd.dictionaries.storage import dictionaries_from_document
from hagd.extraction.opened import OpenRun
from hagd.graphs.storage import circuit_from_document
from hagd.interventions.evaluation import prepare
from hagd.models.language_model import LanguageModel
from hagd.models.storage import model_from_document
from hagd.tasks.storage import task_from_document
from hagd_verification.domain.frontier import Frontier
from hagd_verification.domain.nulls import candidates, frequencies, matched
from hagd_verification.domain.panel import Bill, Panel
from hagd_verification.domain.random_circuits import against
from hagd_verification.domain.statistics import normalise

SEEDS = (0, 1, 2, 3, 4)
MODULUS = 113
SIZES = (49, 55, 70, 106, 347)
RANDOM_PROMPTS = 200
DRAWS = 999
RUNS = BUILD / "bench-circuits"


@dataclass(frozen=True)
class Measured:
    """One run: its verification data, folder and seconds."""

    folder: Path
    data: dict[str, Any]
    seconds: float

    def preservation(self, size: int) -> float:
        """Give the headline at the largest reported size that is not above `size`."""
        points = [point for point in self.data["curve"] if point["nodes"] <= size]
        return max(points, key=lambda point: point["nodes"])["behavioural_preservation"]

    def smallest(self, preservation: float) -> float:
        """Give the smallest reported size from which on the headline holds."""
        holding = float("nan")
        for point in sorted(self.data["curve"], key=lambda p: -p["nodes"]):
            if point["behavioural_preservation"] < preservation:
                break
            holding = point["nodes"]
        return holding


def extract(name: str, *arguments: str) -> Measured:
    """Run `hagd extract` into a folder of its own (a finished run is not repeated) and read its evidence."""
    folder = RUNS / name
    begin = time.monotonic()
    command = [str(Path(sys.executable).with_name("hagd")), "extract", "--out", str(folder), *arguments]
    done = subprocess.run([*command, "--set", f"verification.sizes={list(SIZES)}"], check=False)
    if done.returncode not in {0, 3}:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}")
    return Measured(folder, dict(OpenRun.open(folder).data("verification")), time.monotonic() - begin)


def random_circuits(run: Measured, size: int) -> tuple[float, float]:
    """Give the mean chance-corrected preservation of matched random circuits at `size`, and the p-value."""
    documents = OpenRun.open(run.folder)
    task = task_from_document(documents.document("task"))
    model = model_from_document(documents.document("model"))
    circuit = circuit_from_document(documents.document("circuit"))
    dictionaries = dictionaries_from_document(documents.document("dictionaries"))
    frontier = Frontier.of(replace(circuit, size=min(size, len(circuit.nodes))), model, dictionaries, task)
    universe, chosen = frontier.universe, frontier.vector()
    discover = prepare(frontier.subject, universe, task, "discover", seed=0, most=512)
    verify = prepare(frontier.subject, universe, task, "verify", seed=0, most=RANDOM_PROMPTS)
    frequency = frequencies(discover)
    usable = candidates(universe, frequency, [prompts.batch.layout for prompts in verify.batches])
    family = matched(universe, chosen, usable, frequency, 1)
    test = against(Panel.of(verify, Bill()), chosen, family, DRAWS, None)
    corrected = normalise(test.result.mean, test.chance)
    return (float("nan") if corrected is None else corrected), (1.0 if test.p is None else test.p)


def key_frequencies(model: LanguageModel, modulus: int) -> list[int]:
    """List the frequencies that hold nine tenths of the number embeddings' spectral power."""
    power = np.abs(np.fft.rfft(model.embed[:modulus].double().numpy(), axis=0))[1:] ** 2
    share = power.sum(1) / power.sum()
    order = np.argsort(-share)
    count = int(np.searchsorted(np.cumsum(share[order]), 0.9)) + 1
    return sorted((order[:count] + 1).tolist())


def modular_addition(rows: list[Row]) -> dict[str, Any]:
    """Measure the paper's modulus on five model seeds."""
    task = ("--task", "modular-addition", "--modulus", str(MODULUS))
    learned = [extract(f"modadd-{seed}", *task, "--seed", str(seed)) for seed in SEEDS]
    neurons = [extract(f"neurons-{seed}", *task, "--seed", str(seed), "--dictionary", "neurons") for seed in SEEDS]
    details: dict[str, Any] = {"learned": [], "neurons": []}
    random = {size: [random_circuits(run, size) for run in learned] for size in (70, 106)}
    for seed, run in zip(SEEDS, learned, strict=True):
        model = model_from_document(OpenRun.open(run.folder).document("model"))
        found = key_frequencies(model, MODULUS)
        details["learned"].append({"seed": seed, "key_frequencies": found, "data": run.data, "seconds": run.seconds})
        note = f"frequencies {found}; chosen {run.data['circuit']['nodes']} nodes; {run.data['verdict']}"
        rows.append(Row(f"modular addition, seed {seed}: BP at 55 nodes", run.preservation(55), note=note))
    details["neurons"] = [{"seed": seed, "data": run.data} for seed, run in zip(SEEDS, neurons, strict=True)]
    for size, mean_floor, worst_floor in ((55, None, None), (70, 0.90, None), (106, 0.97, 0.93)):
        values = [run.preservation(size) for run in learned]
        beside = np.mean([run.preservation(size) for run in neurons])
        note = f"neurons: {beside:.3f}"
        rows.append(Row(f"modular addition: mean BP at <= {size} nodes", float(np.mean(values)), mean_floor, note=note))
        rows.append(Row(f"modular addition: worst BP at <= {size} nodes", min(values), worst_floor))
    for size, tests in random.items():
        means = [mean for mean, _ in tests]
        rows.append(Row(f"matched random at {size}: mean BP, chance-corrected", float(np.mean(means)), 0.20, True))
        rows.append(
            Row(f"matched random at {size}: largest p", max(p for _, p in tests), 0.005, True, f"{DRAWS} draws")
        )
    rows += _against_neurons("modular addition", learned, neurons)
    return details


def _against_neurons(name: str, learned: Sequence[Measured], neurons: Sequence[Measured]) -> list[Row]:
    """Compare sizes at equal preservation (.95); neurons that never reach it count as their largest size."""
    ours = float(np.mean([run.smallest(0.95) for run in learned]))
    largest = [max(point["nodes"] for point in run.data["curve"]) for run in neurons]
    theirs = [run.smallest(0.95) for run in neurons]
    filled = [most if np.isnan(size) else size for size, most in zip(theirs, largest, strict=True)]
    control = float(np.mean(filled))
    note = f"neurons need {control:.0f}" + (" or more" if np.isnan(theirs).any() else "")
    return [Row(f"{name}: nodes at BP .95 as share of what neurons need", ours / control, 0.999, True, note)]


def other_task(rows: list[Row], task: str) -> dict[str, Any]:
    """Measure parity or sorting: size, preservation, share of live features, neurons beside."""
    run = extract(task, "--task", task)
    control = extract(f"{task}-neurons", "--task", task, "--dictionary", "neurons")
    points = [point for point in run.data["curve"] if point["nodes"] <= 347]
    best = max(points, key=lambda point: point["behavioural_preservation"])
    share = live_share(run, int(best["nodes"]))
    rows.append(Row(f"{task}: BP at {best['nodes']} nodes (<= 347)", best["behavioural_preservation"], 0.95))
    rows.append(Row(f"{task}: share of live features in it", share, 0.40, True))
    rows += _against_neurons(task, [run], [control])
    return {"learned": run.data, "neurons": control.data}


def live_share(run: Measured, size: int) -> float:
    """Give the share of the live features (active on a discovery prompt, able to reach an answer) in the circuit."""
    documents = OpenRun.open(run.folder)
    task = task_from_document(documents.document("task"))
    circuit = circuit_from_document(documents.document("circuit"))
    frontier = Frontier.of(
        circuit,
        model_from_document(documents.document("model")),
        dictionaries_from_document(documents.document("dictionaries")),
        task,
    )
    discover = prepare(frontier.subject, frontier.universe, task, "discover", seed=0, most=512)
    layouts = [prompts.batch.layout for prompts in discover.batches]
    usable = candidates(frontier.universe, frequencies(discover), layouts) & (frontier.universe.kinds == 5)
    return float(((frontier.vector(size) != 0) & usable).sum() / usable.sum())


def real_model(rows: list[Row]) -> dict[str, Any]:
    """Measure indirect objects on SmolLM2-135M."""
    model = ("--model", "smollm2", "--dictionary", "neurons", "--set", "traversal.max_nodes=347")
    run = extract("ioi", "--task", "ioi", *model)
    data = run.data
    headline, circuit = data["headline"], data["circuit"]
    note = f"{circuit['nodes']} nodes, {circuit['leaves']} leaves, {circuit['description_length_bits']:.0f} bits"
    rows.append(Row("indirect objects: nodes", circuit["nodes"], 347, True, f"{data['verdict']}, {data['scope']}"))
    rows.append(Row("indirect objects: headline BP", headline["behavioural_preservation"], 0.92, note=note))
    rows.append(Row("indirect objects: lower bound", headline["ci95"][0], 0.88))
    rows.append(Row("indirect objects: prompts", headline["n"], 200))
    rows.append(Row("indirect objects: matched random mean", data["random_control"]["matched"]["mean"], 0.10, True))
    rows.append(Row("indirect objects: minutes", run.seconds / 60, note="0 when the run was there already"))
    return data


def main() -> int:
    """Run everything and print the table."""
    rows: list[Row] = []
    details = {"modular addition": modular_addition(rows)}
    for task in ("parity", "sorting"):
        details[task] = other_task(rows, task)
    details["indirect objects"] = real_model(rows)
    return report("Circuits: size, preservation, controls", "bench-circuits", rows, json.loads(json.dumps(details)))


if __name__ == "__main__":
    raise SystemExit(main())
