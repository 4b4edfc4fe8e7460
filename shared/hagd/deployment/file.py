"""The file `hagd.toml`: defaults for whoever works in a folder. One table per command, and `[service]`."""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from hagd.errors import InvalidInputError

DEFAULTS_FILE: Final = "hagd.toml"
FILE_VARIABLE: Final = "HAGD_CONFIG"


def read_file(path: Path | None = None, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Give the tables of the file at `path`, else of the one that HAGD_CONFIG names, else of the working directory.

    Raises:
        InvalidInputError: the file is no TOML, or one that was named is not there.
    """
    named = path or (os.environ if environment is None else environment).get(FILE_VARIABLE)
    found = Path(named or DEFAULTS_FILE)
    try:
        tables = tomllib.loads(found.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if named is None:
            return {}
        raise InvalidInputError(f"there is no file {found}", f"correct --config or {FILE_VARIABLE}") from error
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{found} cannot be read: {error}", "correct it, or move it away") from error
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise InvalidInputError(f"{found}: {name} is no table", f"write [{name}] and a line per option")
    return tables
