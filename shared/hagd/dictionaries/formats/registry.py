"""Which formats there are, which of them a folder is of, and whether what it holds belongs to a model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from hagd.dictionaries.cross_layer import CrossLayerTranscoder
from hagd.dictionaries.formats import (
    circuit_tracer,
    circuit_tracer_clt,
    clt_forge,
    gemma_scope,
    gemma_scope_2,
    hugging_face,
    llamascopium,
    saelens,
    sparsify,
)
from hagd.dictionaries.formats.files import PICKLES, Folder
from hagd.dictionaries.formats.found import Found
from hagd.dictionaries.formats.origin import origin_of
from hagd.errors import InvalidInputError, UnknownNameError
from hagd.models.loading import LoadedModel


@dataclass(frozen=True)
class Format:
    """How one layout is told and read."""

    files: tuple[str, ...]
    """Names of its files; see the package."""
    matches: Callable[[Folder], bool]
    read: Callable[[Folder], Found]

    def has(self, name: str) -> bool:
        """Say whether a file, named as seen from the folder, is one of the format."""
        return any(
            fnmatchcase(name.rpartition("/")[2], pattern.removeprefix("**/"))
            for pattern in self.files
            if pattern.startswith("**/") or "/" not in name
        )


FORMATS: Mapping[str, Format] = {
    module.NAME: Format(module.FILES, module.matches, module.read)
    for module in (
        hugging_face,
        circuit_tracer,
        circuit_tracer_clt,
        gemma_scope,
        gemma_scope_2,
        saelens,
        sparsify,
        llamascopium,
        clt_forge,
    )
}
_ALIASES = {"gpt2-small": "gpt2"}
"""Names that TransformerLens gives to models that the hub knows by others."""
_ANY_NAME = (
    "add --any-name, or where a prompt is traced --set prompt.any_name=true, or in an extraction "
    "--set transcoder.any_name=true"
)


def detect(folder: Folder) -> str:
    """Give the name of the format that a folder is of.

    Raises:
        InvalidInputError: it is of none or several of the known formats.
    """
    found = [name for name, it in FORMATS.items() if it.matches(folder)]
    if len(found) == 1:
        return found[0]
    if found:
        raise InvalidInputError(
            f"{folder.path.name} could be of the formats {', '.join(found)}",
            "say which with --from of `hagd transcoder convert`",
        )
    pickled = sorted(path.name for path in folder.path.iterdir() if path.suffix in PICKLES)
    seen = f"; it holds pickles ({pickled[0]}), which can run code when opened" if pickled else ""
    raise InvalidInputError(
        f"{folder.path.name} is of none of the formats {', '.join(FORMATS)}{seen}",
        "give the folder that holds the config of the transcoders, with safetensors beside it",
    )


def format_named(name: str | None) -> tuple[str, ...]:
    """Give the formats that may be meant: the one that is named, or all.

    Raises:
        UnknownNameError: there is no such format.
    """
    if name not in (None, *FORMATS):
        raise UnknownNameError(f"there is no format {name!r}", f"known formats: {', '.join(FORMATS)}")
    return tuple(FORMATS) if name is None else (name,)


def read_folder(path: Path, source_format: str | None = None, *, pickles: bool = False) -> Found:
    """Read the transcoders in a folder, in the format named or the one that it is found to be of.

    Raises:
        UnknownNameError: there is no such format.
        InvalidInputError: the folder is of no format, or its files cannot be used.
    """
    folder = Folder(path, pickles)
    format_named(source_format)
    try:
        if not path.is_dir():
            raise InvalidInputError(f"{path} is no folder", "give a folder of transcoders, or hub:OWNER/NAME")
        found = FORMATS[source_format or detect(folder)].read(folder)
        return replace(found, origin=origin_of(folder))
    except OSError as error:
        raise InvalidInputError(f"{path.name} cannot be read: {error.strerror}", "give another folder") from error
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        # What settings of wrong types and tensors of wrong shapes end in; each reader names what it expects to meet.
        raise InvalidInputError(
            f"{path.name} does not fit its layout: {error}", "the files are damaged, or of another version"
        ) from error


def check_belongs(found: Found, loaded: LoadedModel, *, any_name: bool = False) -> None:
    """Refuse transcoders of another model.

    Args:
        any_name: do not compare names and revisions; shapes and digests are compared all the same.

    Raises:
        InvalidInputError: width, layers, digest, name or revision are not the model's.
    """
    config = loaded.model.config
    layers, width = _size(found)
    if width != config.d_model:
        raise InvalidInputError(
            f"the transcoders have width {width}, {loaded.name} has {config.d_model}", "give the model they belong to"
        )
    if found.n_layers not in (None, config.n_layers) or max(layers) >= config.n_layers:
        raise InvalidInputError(
            f"the transcoders are of {found.n_layers or max(layers) + 1} layers, {loaded.name} has {config.n_layers}",
            "give the model they belong to, and all files of the set",
        )
    if found.digest is not None and found.digest != loaded.digest:
        raise InvalidInputError(
            f"the transcoders belong to weights of digest {found.digest[:12]}, {loaded.name} has {loaded.digest[:12]}",
            "give the very model, at the same revision",
        )
    if not any_name and found.digest is None:
        _compare_names(found, loaded)


def _size(found: Found) -> tuple[list[int], int]:
    if isinstance(found.content, CrossLayerTranscoder):
        return list(range(found.content.n_layers)), found.content.b_dec[0].shape[0]
    return list(found.content), next(iter(found.content.values())).b_dec.shape[0]


def _compare_names(found: Found, loaded: LoadedModel) -> None:
    if found.base_model is not None and _plain(found.base_model) != _plain(loaded.name):
        raise InvalidInputError(
            f"the file names {found.base_model!r} as its model, not {loaded.name!r}",
            f"give that model with --model; if yours is the same under another name, {_ANY_NAME}",
        )
    if found.revision is not None and loaded.revision is not None and found.revision != loaded.revision:
        raise InvalidInputError(
            f"the file names revision {found.revision!r} of its model, {loaded.name} was loaded at {loaded.revision!r}",
            f"load that revision with --revision; if both are the same commit, {_ANY_NAME}",
        )


def _plain(name: object) -> str:
    """Give a model's name without its owner, as tools write it in their own ways."""
    short = str(name).rstrip("/").rpartition("/")[2].lower()
    return _ALIASES.get(short, short)
