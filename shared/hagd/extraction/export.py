"""Copy a run out of the store, for tools that know nothing of hagd."""

import json
from pathlib import Path
from typing import Final

from hagd.artifacts.document import JSON_TYPE
from hagd.artifacts.filesystem import storage_error
from hagd.errors import UsageError
from hagd.extraction.opened import OpenRun

_SUFFIXES: Final = {JSON_TYPE: ".json"}
_TENSORS_SUFFIX: Final = ".safetensors"


def export_run(run: OpenRun, to: Path) -> list[Path]:
    """Write every artifact of a run and `run.json`; give the files.

    Raises:
        UsageError: the folder holds something already.
        ArtifactNotFoundError, CorruptArtifactError: an artifact is lost or damaged.
        StoreFullError, UnavailableError: the folder cannot be written.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UsageError(f"{to} is not an empty folder", "choose a new one: nothing is written over")
    content = {
        "run_id": run.state.run_id,
        "request": run.state.request.to_json(),
        "stages": [stage.to_json() for stage in run.state.stages],
        "outcome": run.state.outcome.to_json() if run.state.outcome else None,
    }
    files = {"run.json": (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()}
    store = run.folder.open_store(create=False)
    for role, ref in run.roles.items():
        files[role + _SUFFIXES.get(ref.media_type, _TENSORS_SUFFIX)] = store.get_blob(ref)
    try:
        to.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (to / name).write_bytes(data)
    except OSError as error:
        raise storage_error(error, to) from error
    return [to / name for name in files]
