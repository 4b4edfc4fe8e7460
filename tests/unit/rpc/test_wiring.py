"""What the loops of one service process share."""

from pathlib import Path

from hagd.deployment.config import Places, ServiceConfig
from hagd.execution.selection import ExecutorSettings
from hagd.rpc.wiring import Wiring
from unit.pipeline.test_loop import World
from unit.pipeline.toy_stages import STAGES


async def test_all_stages_of_a_service_together_have_as_many_places_as_workers(tmp_path: Path) -> None:
    """A task that no worker is free for, because one of another stage has it, must not wait with a lease."""
    world, executor = World(), ExecutorSettings("inline", workers=2)
    config = ServiceConfig(Places(tmp_path), "127.0.0.1:0", executor=executor)
    wiring = Wiring(config, world.store, world.runs, world.log, world.executor, STAGES)
    loops = wiring.host("toys", wiring.service(), "toys", lambda _: None).loops
    assert {loop.spec.id for loop in loops} == set(STAGES)
    (places,) = {id(loop.places): loop.places for loop in loops}.values()
    assert places.free is not None
    assert [places.free.acquire(blocking=False) for _ in range(3)] == [True, True, False]
