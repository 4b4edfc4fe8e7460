"""A service of the product over watched adapters: `python -m benchmarks.soak.service transcoder FLAGS`.

Its bootstrap, settings and loops are those of `python -m hagd_transcoder`; only what `Wiring.open` gives is wrapped.
"""

import importlib
import sys
from typing import Any

from benchmarks.soak.adapters import watched
from benchmarks.soak.faults import FOLDER_VARIABLE, Faults
from benchmarks.soak.stages import PROTOCOL
from hagd.deployment.config import ServiceConfig
from hagd.errors import UsageError
from hagd.pipeline.intake import PlanSettings
from hagd.rpc.process import run_process
from hagd.rpc.wiring import Wiring


def main(arguments: list[str]) -> int:
    """Run the service that the first argument names; give its exit status."""
    faults = Faults.of_this_process()
    if faults is None:
        raise UsageError(f"{FOLDER_VARIABLE} is not set", "start services of a soak by `make soak`")
    name, *flags = arguments
    opened = Wiring.open

    def open_watched(
        config: ServiceConfig,
        stages: tuple[str, ...],
        *,
        routes: bool = False,
        plan_settings: PlanSettings | None = None,
    ) -> Wiring:
        return watched(opened(config, stages, routes=routes, plan_settings=plan_settings), faults, PROTOCOL)

    # The bootstraps know no other way in, and need none but for this.
    Wiring.open = open_watched
    service: Any = importlib.import_module(f"hagd_{name}.bootstrap")
    return run_process(service.IDENTITY, service.bootstrap, flags)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
