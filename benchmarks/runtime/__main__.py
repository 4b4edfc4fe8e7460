"""Measure everything, print the table, write build/bench-runtime.json; the exit status says whether a floor was missed.

`python -m benchmarks.runtime driver computed` measures only those rows.
"""

import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.cluster.place import Place, running_place
from benchmarks.cluster.stages import STAGES
from benchmarks.runtime import artifact, burst, computed, driver, scaling
from benchmarks.tables import Row, run
from hagd.pipeline.stages import discover_stages

MEASURES: dict[str, Callable[[Place], list[Row]]] = {
    "driver": driver.measure,
    "artifact": artifact.measure,
    "computed": computed.measure,
    "burst": burst.measure,
    "process": scaling.measure_process,
    "ray": scaling.measure_ray,
}


def on_own_servers(measure: Callable[[Place], list[Row]]) -> list[Row]:
    """Give the rows of one measure, on servers that serve nothing else."""
    with (
        tempfile.TemporaryDirectory(prefix="hagd-bench-") as folder,
        running_place(Path(folder), [*discover_stages(), *STAGES]) as place,
    ):
        return measure(place)


if __name__ == "__main__":
    found = {name: partial(on_own_servers, measure) for name, measure in MEASURES.items()}
    sys.exit(run("Runtime over Kafka and MinIO", "bench-runtime", found, sys.argv[1:]))
