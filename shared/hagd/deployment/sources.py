"""Reading settings: flag > environment > file > default, each value with its origin.

In the file, `[service]` holds for all services and `[service.transcoder]` for one, before the other.
"""

import argparse
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import ValidationError
from pydantic_settings import CliSettingsSource, EnvSettingsSource

from hagd.deployment.file import read_file
from hagd.deployment.settings import PREFIX, ServiceSettings
from hagd.errors import InvalidInputError

Origin = Literal["flag", "environment", "file", "default"]
TABLE: Final = "service"
SERVICES: Final = ("transcoder", "coarsening", "traversal", "verification")


@dataclass(frozen=True)
class Reading:
    """Settings, and where each came from."""

    settings: ServiceSettings
    origins: Mapping[str, Origin]
    """By name of the setting, all of them."""

    def rows(self) -> list[dict[str, Any]]:
        """Give every setting with its value and origin, as plain values."""
        values = self.settings.model_dump(mode="json")
        return [{"name": name, "value": values[name], "origin": self.origins[name]} for name in values]


@dataclass(frozen=True)
class Asked:
    """What a command line of a service asks for."""

    reading: Reading
    print_config: bool = False
    as_json: bool = False


def read_command_line(
    service: str, arguments: Sequence[str] | None = None, defaults: Mapping[str, Any] | None = None
) -> Asked:
    """Read the flags of `python -m hagd_<service>`, and what stands behind them.

    Args:
        service: its name.
        arguments: those of the process when None.
        defaults: settings whose default differs for this service.

    Raises:
        InvalidInputError: a value or the file cannot be used.
        SystemExit: the flags are wrong, or ask for help.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m hagd_{service}",
        description=f"Run the {service} service. Every option has a variable, such as {PREFIX}ROOT for --root, "
        f"and a key in the table [{TABLE}] of hagd.toml.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", type=Path, help="the file, in place of hagd.toml in the working directory")
    parser.add_argument("--print-config", action="store_true", help="print every setting with its origin, and stop")
    parser.add_argument("--json", action="store_true", help="print them as JSON")
    flags = CliSettingsSource(ServiceSettings, root_parser=parser, cli_implicit_flags=True)
    given = vars(parser.parse_args(arguments))
    known = ServiceSettings.model_fields
    found = flags(parsed_args={name: value for name, value in given.items() if name in known})()
    reading = read_settings(service, found, given["config"], defaults)
    return Asked(reading, given["print_config"], given["json"])


def read_settings(
    service: str | None = None,
    flags: Mapping[str, Any] | None = None,
    file: Path | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> Reading:
    """Read settings for a process: of one service, or of none such as a command of an operator.

    Raises:
        InvalidInputError: a value or the file cannot be used.
    """
    known = ServiceSettings.model_fields
    environment = EnvSettingsSource(ServiceSettings)()
    levels: list[tuple[Origin, Mapping[str, Any]]] = [
        ("flag", flags or {}),
        ("environment", environment),
        ("file", _table(read_file(file), service)),
        ("default", {name: it.default for name, it in known.items()} | dict(defaults or {})),
    ]
    values: dict[str, Any] = {}
    origins: dict[str, Origin] = {}
    for name in known:
        origins[name], level = next(found for found in levels if name in found[1])
        values[name] = level[name]
    try:
        return Reading(ServiceSettings(**values), origins)
    except ValidationError as error:
        raise _told(error, origins) from error


def _table(content: Mapping[str, Any], service: str | None) -> dict[str, Any]:
    """Give the settings of the file for a service, unknown ones refused, also where another service would read them."""
    common: dict[str, Any] = content.get(TABLE, {})
    own = {name: common[name] for name in SERVICES if name in common}
    shared = {name: value for name, value in common.items() if name not in own}
    _refuse_unknown(shared, TABLE)
    for name, table in own.items():
        if not isinstance(table, dict):
            raise InvalidInputError(f"hagd.toml: {TABLE}.{name} is no table", f"write [{TABLE}.{name}]")
        _refuse_unknown(table, f"{TABLE}.{name}")
    return shared | own.get(service or "", {})


def _refuse_unknown(table: Mapping[str, Any], place: str) -> None:
    known = list(ServiceSettings.model_fields)
    for name in table:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise InvalidInputError(f"hagd.toml: [{place}] has the unknown key {name!r}", hint)


def _told(error: ValidationError, origins: Mapping[str, Origin]) -> InvalidInputError:
    """Say which value is wrong, by the name under which it was written."""
    first = error.errors()[0]
    name = str(first["loc"][0])
    written = {
        "flag": f"--{name.replace('_', '-')}",
        "environment": PREFIX + name.upper(),
        "file": f"hagd.toml: {name}",
        "default": name,
    }[origins[name]]
    return InvalidInputError(f"{written} is {first['input']!r}: {first['msg']}", "correct it, or leave it out")
