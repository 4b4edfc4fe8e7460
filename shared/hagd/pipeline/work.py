"""What one request asks of the loop of a stage: the whole task, one shard of it, or the join of all shards.

A divided task is worked off as `part`s of one envelope: the request itself (part empty) gives way to one request per
shard (part "0", "1", ...). Whoever finishes a shard and finds the results of all others there asks for part "join",
whose result is that of the task. Everything is found by key, so any of these requests may come twice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from hagd.artifacts.manifests import read_manifest
from hagd.artifacts.reference import ArtifactRef
from hagd.artifacts.store import ArtifactStore
from hagd.errors import ArtifactNotFoundError, InvalidInputError
from hagd.events.envelope import Envelope, event_id
from hagd.events.topics import requested_topic
from hagd.pipeline.contract import Config, Sharding, StageSpec, shard_key, task_key

WHOLE: Final = ""
JOIN: Final = "join"


@dataclass(frozen=True)
class Work:
    """One computation, and the key under which its result is found."""

    key: str
    run: str
    """`module:function` of a `StageFunction`."""
    config: Config
    inputs: Mapping[str, ArtifactRef]
    outputs: tuple[str, ...]


def work_of(spec: StageSpec, envelope: Envelope, store: ArtifactStore) -> Work:
    """Give what a request asks for.

    Raises:
        InvalidInputError: the request lacks an input, names a shard that is none, or has a config that is refused.
        ArtifactNotFoundError: it asks for a join, and the result of a shard is lost.
    """
    inputs = _inputs(spec, envelope)
    config = envelope.plan[envelope.stage_index].config
    if envelope.part == WHOLE:
        return Work(task_key(spec, inputs, config), spec.run, config, inputs, spec.outputs)
    shards = shard_configs(spec, envelope)
    if spec.sharding is None or not shards:
        raise InvalidInputError(f"part {envelope.part!r} of stage {spec.id!r}, which is not divided")
    if envelope.part == JOIN:
        parts = _results(spec, spec.sharding, inputs, shards, store)
        return Work(task_key(spec, inputs, config), spec.sharding.join, config, inputs | parts, spec.outputs)
    if not envelope.part.isdecimal() or int(envelope.part) >= len(shards):
        raise InvalidInputError(f"stage {spec.id!r} has {len(shards)} shards, and no part {envelope.part!r}")
    own = shards[int(envelope.part)]
    return Work(shard_key(spec, inputs, own), spec.sharding.run, own, inputs, spec.sharding.outputs)


def shard_configs(spec: StageSpec, envelope: Envelope) -> Sequence[Config]:
    """Give the configs of the shards; empty where the task runs whole."""
    if spec.sharding is None:
        return ()
    configs = spec.sharding.split(envelope.plan[envelope.stage_index].config)
    return configs if len(configs) > 1 else ()


def shard_keys(spec: StageSpec, envelope: Envelope) -> list[str]:
    """Give the keys of all shards of a request, in order."""
    inputs = _inputs(spec, envelope)
    return [shard_key(spec, inputs, config) for config in shard_configs(spec, envelope)]


def are_there(keys: Sequence[str], store: ArtifactStore) -> bool:
    """Say whether all these keys have a result.

    The last is looked for first: shards are mostly finished in their order, so most looks end at once.
    """
    return all(read_manifest(store, key) is not None for key in reversed(keys))


def request_for(spec: StageSpec, envelope: Envelope, part: str) -> tuple[str, Envelope]:
    """Give the topic and the event that ask for a part; the same event, whoever asks."""
    topic = requested_topic(spec.id, envelope.lane)
    identity = event_id(envelope.run_id, topic, f"{envelope.stage_index}/{part}", envelope.generation)
    return topic, replace(envelope, id=identity, part=part)


def _inputs(spec: StageSpec, envelope: Envelope) -> dict[str, ArtifactRef]:
    missing = sorted(set(spec.inputs) - set(envelope.inputs))
    if missing:
        raise InvalidInputError(f"the request lacks {', '.join(missing)}", "add the stage that makes it to the plan")
    return {role: envelope.inputs[role] for role in spec.inputs}


def _results(
    spec: StageSpec,
    sharding: Sharding,
    inputs: Mapping[str, ArtifactRef],
    shards: Sequence[Config],
    store: ArtifactStore,
) -> dict[str, ArtifactRef]:
    found: dict[str, ArtifactRef] = {}
    for number, config in enumerate(shards):
        manifest = read_manifest(store, shard_key(spec, inputs, config))
        if manifest is None:
            raise ArtifactNotFoundError(f"the result of shard {number} of stage {spec.id!r} is lost")
        found |= {f"{role}/{number:05d}": manifest.outputs[role] for role in sharding.outputs}
    return found
