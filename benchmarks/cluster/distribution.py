"""Making the stages of the benchmarks known to services as a third party would: a distribution with entry points."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from hagd.pipeline.stages import GROUP

ROOT: Final = Path(__file__).parents[2]


def install(folder: Path, stages: Mapping[str, str]) -> dict[str, str]:
    """Put a distribution with stages into a folder; give the variables that let a process find it.

    Args:
        folder: where to; made when it is missing.
        stages: by stage id, `module:NAME` of its spec.
    """
    info = folder / "hagd_bench_stages-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hagd-bench-stages\nVersion: 1.0\n")
    lines = [f"{stage_id} = {place}" for stage_id, place in stages.items()]
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n" + "\n".join(lines) + "\n")
    paths = [str(folder), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths)}
