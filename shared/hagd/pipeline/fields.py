"""The fields of a stage's config: read with errors that name them, and listed for whoever wants to set one."""

from collections.abc import Callable, Mapping
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from hagd.errors import InvalidInputError
from hagd.pipeline.contract import Config

M = TypeVar("M", bound=BaseModel)
Fields = Mapping[str, str]
"""Name of a field -> its default and what it is for."""


def read_fields(stage_id: str, model: type[M], config: Config) -> M:
    """Parse a config.

    Raises:
        InvalidInputError: a field is unknown or out of range; the message names it.
    """
    try:
        return model.model_validate(dict(config))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = ", ".join(model.model_fields)
            raise InvalidInputError(f"{stage_id}.{name} is no field of its config", f"fields: {known}") from error
        raise InvalidInputError(
            f"{stage_id}.{name}: {first['msg']} (got {first['input']!r})", f"see `hagd stages {stage_id}`"
        ) from error


def fields_of(model: type[BaseModel]) -> Callable[[], Fields]:
    """Give what lists the fields of a config, each by the line under it."""

    def listed() -> Fields:
        return {
            name: f"{field.default!r}. {' '.join((field.description or '').split())}".strip()
            for name, field in model.model_fields.items()
        }

    return listed
