"""What the evidence proves, by rules written down once more here: nothing of the product is imported.

The expectation is what the soak knows of its own doing: `runs` (each with run id, content, the topic of its last fact,
whether it was cancelled), `poison` (digest, and the run it names), `undisturbed` (`{content: {status, outputs}}`).
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.soak.evidence import Evidence

_FAILED: Final = "hagd.run.failed.v1"
_CANCELLED: Final = "hagd.run.cancelled.v1"
_UNREADABLE: Final = ".unreadable"
_DEAD: Final = ".dead.v1"
Expectation = Mapping[str, Any]


@dataclass
class Findings:
    """What was found to be wrong, one line each, under what it breaks."""

    wrong: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, rule: str, line: str) -> None:
        self.wrong[rule].append(line)

    def count(self, rule: str) -> int:
        return len(self.wrong.get(rule, []))


def audit(evidence: Evidence, expected: Expectation) -> Findings:
    """Hold the evidence to every rule."""
    findings = Findings()
    finals = _finals(evidence, expected)
    for run in expected["runs"]:
        for line in _wrong_outcomes(run, evidence, finals, expected["undisturbed"]):
            findings.add("outcome", line)
        for line in _wrong_digests(run, evidence, expected["undisturbed"]):
            findings.add("digest", line)
    for line in _missing_poison(evidence, expected["poison"]):
        findings.add("poison", line)
    for line in _strange_letters(evidence, expected["poison"]):
        findings.add("letter", line)
    for line in _broken_manifests(evidence):
        findings.add("manifest", line)
    for line in _second_results(evidence):
        findings.add("second", line)
    return findings


def run_id_of(principal: str, request_id: str) -> str:
    """Give the id of a run as the design says: sha256 of the RFC 8785 JSON of both."""
    text = json.dumps([principal, request_id], separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def latest_generation(evidence: Evidence, run_id: str) -> int:
    """Give how often a run was opened again."""
    opened = [key.split("/")[2] for key in evidence.below(f"runs/{run_id}/g") if key.endswith("/opened")]
    return max((int(name[1:]) for name in opened), default=0)


def manifests(evidence: Evidence) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give every manifest with its task key."""
    for key in evidence.below("manifests/"):
        yield key.split("/")[2], evidence.parsed(key) or {}


def _finals(evidence: Evidence, expected: Expectation) -> dict[tuple[str, int, str], set[str]]:
    """Give the distinct ids of the events that end runs, by run, generation and topic."""
    found: dict[tuple[str, int, str], set[str]] = defaultdict(set)
    for topic in {_FAILED, _CANCELLED, *(run["topic"] for run in expected["runs"])}:
        for event in evidence.events(topic):
            found[event["run_id"], event["generation"], topic].add(event["id"])
    return found


def _wrong_outcomes(
    run: Mapping[str, Any],
    evidence: Evidence,
    finals: Mapping[tuple[str, int, str], set[str]],
    undisturbed: Mapping[str, Any],
) -> Iterator[str]:
    """Every accepted run has one outcome, announced by one event, and it is the one that was due."""
    run_id, name = run_id_of(run["principal"], run["request_id"]), run["request_id"]
    generation = latest_generation(evidence, run_id)
    outcome = evidence.parsed(f"runs/{run_id}/g{generation:04d}/outcome")
    if outcome is None:
        yield f"{name}: no outcome"
        return
    status = outcome["status"]
    due = {undisturbed[run["content"]]["status"]} | ({"cancelled"} if run["cancelled"] else set())
    if status not in due:
        yield f"{name}: ended {status}, due was {' or '.join(sorted(due))}: {outcome.get('failure')}"
    told = {"failed": _FAILED, "cancelled": _CANCELLED}.get(status, run["topic"])
    for topic in {_FAILED, _CANCELLED, run["topic"]}:
        ids = finals.get((run_id, generation, topic), set())
        if topic == told and len(ids) != 1:
            yield f"{name}: ended {status}, and {len(ids)} events of {topic} tell of it"
        # The last stage of a run that was cancelled may have been done already.
        if topic != told and ids and not (status == "cancelled" and topic == run["topic"]):
            yield f"{name}: ended {status}, and {topic} tells otherwise"


def _wrong_digests(run: Mapping[str, Any], evidence: Evidence, undisturbed: Mapping[str, Any]) -> Iterator[str]:
    """What a run gave is what it gives when nothing fails, byte for byte; a cancelled one up to where it came."""
    run_id = run_id_of(run["principal"], run["request_id"])
    due: Mapping[str, str] = undisturbed[run["content"]]["outputs"]
    found: dict[str, str] = {}
    for key in evidence.below(f"runs/{run_id}/g{latest_generation(evidence, run_id):04d}/"):
        if key.endswith(".done"):
            outputs = (evidence.parsed(key) or {})["outputs"]
            found |= {role: ref["sha256"] for role, ref in outputs.items()}
    for role, digest in due.items():
        if role not in found and not run["cancelled"]:
            yield f"{run['request_id']}: {role} is missing"
        if found.get(role, digest) != digest:
            yield f"{run['request_id']}: {role} is {found[role][:12]}, undisturbed {digest[:12]}"


def _missing_poison(evidence: Evidence, poison: Iterable[Mapping[str, str]]) -> Iterator[str]:
    """Every poison message lies where dead letters lie."""
    unreadable, dead = _put_away(evidence)
    for it in poison:
        if it["digest"] not in unreadable and it["run_id"] not in dead:
            yield f"{it['kind']} in {it['topic']}"


def _strange_letters(evidence: Evidence, poison: Iterable[Mapping[str, str]]) -> Iterator[str]:
    """Nothing but poison lies where dead letters lie."""
    digests, runs = {it["digest"] for it in poison}, {it["run_id"] for it in poison}
    unreadable, dead = _put_away(evidence)
    yield from (f"unreadable: {digest[:12]}" for digest in unreadable - digests)
    yield from (f"dead: run {run_id[:12]}: {dead[run_id]}" for run_id in dead if run_id not in runs)


def _put_away(evidence: Evidence) -> tuple[set[str], dict[str, str]]:
    """Give the digests of what could not be read, and the runs of dead letters with the reason."""
    unreadable: set[str] = set()
    dead: dict[str, str] = {}
    for topic, values in evidence.topics.items():
        if topic.endswith(_UNREADABLE):
            unreadable |= {hashlib.sha256(value).hexdigest() for value in values}
        if topic.endswith(_DEAD):
            dead |= {event["run_id"]: str(event["data"].get("failure")) for event in evidence.events(topic)}
    return unreadable, dead


def _broken_manifests(evidence: Evidence) -> Iterator[str]:
    """Every manifest names blobs that are there, of the size and with the bytes that it says."""
    for key, manifest in manifests(evidence):
        for role, ref in manifest.get("outputs", {"all": {"sha256": "", "bytes": 0}}).items():
            blob = evidence.blobs.get(ref["sha256"])
            if blob is None:
                yield f"{key[:12]}: {role} is missing"
            elif (blob.sha256, blob.size) != (ref["sha256"], ref["bytes"]):
                yield f"{key[:12]}: {role} is damaged"


def _second_results(evidence: Evidence) -> Iterator[str]:
    """A task key has one result, in manifests and in facts alike."""
    results: dict[str, set[str]] = defaultdict(set)
    for key, manifest in manifests(evidence):
        results[key].add(_digests(manifest.get("outputs", {})))
    for topic in evidence.topics:
        for event in evidence.events(topic) if ".requested" not in topic else ():
            data = event.get("data", {})
            if data.get("task_key") and data.get("status") in ("done", "cached"):
                results[data["task_key"]].add(_digests(data["outputs"]))
    yield from (f"{key[:12]}: {len(found)} results" for key, found in results.items() if len(found) > 1)


def _digests(outputs: Mapping[str, Any]) -> str:
    return json.dumps({role: ref["sha256"] for role, ref in sorted(outputs.items())})
