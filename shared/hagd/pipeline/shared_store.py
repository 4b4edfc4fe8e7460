"""Where a run keeps its artifacts when not in its own folder: a store that several runs share.

Runs of one store find each other's finished stages. The run folder remembers its store, so only the command that makes
the folder needs to name it.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from hagd.errors import UsageError

STORE_VARIABLE: Final = "HAGD_STORE"


def store_folder(given: str | Path | None, environment: Mapping[str, str] | None = None) -> Path | None:
    """Give the folder of the shared store: the one given, else that of `$HAGD_STORE`, else None.

    Raises:
        UsageError: it is the address of a store that is no folder.
    """
    named = os.fspath(given or (os.environ if environment is None else environment).get(STORE_VARIABLE, ""))
    scheme, colon, rest = named.partition(":")
    if colon and scheme == "file":
        return Path(rest)
    if colon and scheme == "s3":
        raise UsageError(
            f"a run on this machine keeps its artifacts in a folder, not in {named}",
            f"give a folder as --store or {STORE_VARIABLE}, or leave both out",
        )
    return Path(named) if named else None
