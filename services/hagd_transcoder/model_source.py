"""Where a model comes from: trained on the spot, or a folder, the hub or a package. Checked here, loaded by the stages.

Loads without torch.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from hagd.errors import InvalidInputError
from hagd.pipeline.local_files import digest_of_file
from hagd.tasks.configs import resolved_fields

WEIGHT_FILES = ("*.safetensors", "*.gguf", "config.json", "tokenizer*", "vocab.json", "merges.txt")


@dataclass(frozen=True)
class TrainedSource:
    """A base model trained on the spot."""

    seed: int = 0
    untrained: bool = False
    """Random weights, the accuracy gate bypassed: a negative control whose verdict must be `no claim`."""


@dataclass(frozen=True)
class PretrainedSource:
    """A model from a folder, the hub, or a package (`smollm2`)."""

    path: str
    revision: str | None = None
    gguf: str | None = None
    """Name of a GGUF file in the folder or repository."""
    digest: str | None = None
    """sha256 of the weights as recorded in results; refused when another is found."""
    bos: bool | None = None
    """Start prompts with the beginning-of-sequence token; None follows the model's own rule."""


def parse_model(section: Mapping[str, Any], seed: int) -> TrainedSource | PretrainedSource:
    """Check where a model is to come from; `seed` is that of a model trained here which names none.

    Raises:
        InvalidInputError: a field is unknown or of the wrong type.
    """
    if "path" not in section:
        refuse_unknown("model", section, {"train", "seed", "untrained"})
        if section.get("train", True) is not True:
            raise InvalidInputError("the model is neither trained nor given by path", 'give {"path": ...}')
        untrained = section.get("untrained", False)
        if not isinstance(untrained, bool):
            raise InvalidInputError(f"untrained must be true or false, not {untrained!r}", "correct the value")
        return TrainedSource(checked_seed(section.get("seed", seed)), untrained)
    refuse_unknown("model", section, {"path", "revision", "gguf", "gguf_file", "digest", "bos"})
    bos = section.get("bos")
    if bos is not None and not isinstance(bos, bool):
        raise InvalidInputError(f"bos must be true or false, not {bos!r}", "correct the value")
    return PretrainedSource(
        path=_text(section, "path") or "",
        revision=_text(section, "revision"),
        gguf=_text(section, "gguf") or _text(section, "gguf_file"),
        digest=_text(section, "digest"),
        bos=bos,
    )


def _text(section: Mapping[str, Any], name: str) -> str | None:
    value = section.get(name)
    if (value is None and name != "path") or (isinstance(value, str) and value):
        return value
    raise InvalidInputError(f"model {name} must be text, not {value!r}", "correct the value")


def identify_model(source: TrainedSource | PretrainedSource) -> dict[str, Any]:
    """Give what determines the model: for files their content, never where they lie.

    A hub model counts by id and revision, so give a commit as revision where its branch may move.
    """
    if isinstance(source, TrainedSource):
        return {"train": True, **resolved_fields(source)}
    chosen: dict[str, Any] = {
        name: value for name, value in (("gguf", source.gguf), ("bos", source.bos)) if value is not None
    }
    if source.digest:
        return {"digest": source.digest, **chosen}
    folder = Path(source.path).expanduser()
    if folder.is_dir():
        return {"files": _digest_of_folder(folder), **chosen}
    return {"hub": source.path, "revision": source.revision, **chosen}


def refuse_unknown(where: str, given: Mapping[str, Any], known: set[str]) -> None:
    """Raise InvalidInputError for the first name that is not known."""
    for name in given:
        if name not in known:
            raise InvalidInputError(f"unknown {where} field {name!r}", f"known fields: {', '.join(sorted(known))}")


def checked_seed(value: Any) -> int:
    """Give a seed.

    Raises:
        InvalidInputError: it is none.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InvalidInputError(f"a seed must be a whole number from 0, not {value!r}", "give another seed")
    return value


def _digest_of_folder(folder: Path) -> str:
    """Digest the files that make a model, by name and content; read again only when one has changed."""
    found = sorted({file for pattern in WEIGHT_FILES for file in folder.glob(pattern) if file.is_file()})
    digest = hashlib.sha256()
    for file in found:
        status = file.stat()
        digest.update(f"{file.name} {_digest_of_version(file, status.st_mtime_ns, status.st_size)}\n".encode())
    return digest.hexdigest()


@lru_cache(maxsize=256)
def _digest_of_version(file: Path, modified_ns: int, size_bytes: int) -> str:  # noqa: ARG001 - they are the cache's key
    return digest_of_file(str(file))
