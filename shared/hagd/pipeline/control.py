"""Stages that a person has told to rest: a mark in the store, which every replica of the stage looks at."""

from dataclasses import dataclass

import rfc8785

from hagd.artifacts.store import ArtifactStore


@dataclass(frozen=True)
class StageControl:
    """Marks of the stages that take no new work. What has begun goes on."""

    store: ArtifactStore

    def pause(self, stage_id: str, reason: str = "") -> None:
        """Let a stage take no more work; quiet when it takes none already."""
        self.store.put_if_absent(_key(stage_id), rfc8785.dumps({"reason": reason}))

    def resume(self, stage_id: str) -> None:
        """Let a stage take work again."""
        self.store.delete(_key(stage_id))

    def is_paused(self, stage_id: str) -> bool:
        """Say whether a stage is to take no work."""
        return self.store.read(_key(stage_id)) is not None

    def paused(self) -> list[str]:
        """List the stages that take no work."""
        return [key.split("/")[1] for key in self.store.list("control/")]


def _key(stage_id: str) -> str:
    return f"control/{stage_id}/paused"
