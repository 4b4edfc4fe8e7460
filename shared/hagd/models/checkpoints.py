"""Open a folder of Hugging Face files: safetensors or GGUF only, no code from the folder, nothing missing.

This is the one module that imports `transformers`, which takes seconds; others import it when they need it.
"""

import contextlib
import io
import json
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as hf_logging

from hagd.errors import InvalidInputError
from hagd.models.architectures import convert, find_architecture, read_config
from hagd.models.language_model import LanguageModel
from hagd.models.tokenizer import Tokenizer

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


@contextlib.contextmanager
def quiet() -> Generator[None]:
    """Silence what `transformers` prints while loading, and put its settings back."""
    verbosity, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        # The GGUF reader draws a bar that follows no setting; the redirection may go when it does.
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if bars:
            hf_logging.enable_progress_bar()


def open_checkpoint(folder: Path, gguf_file: str | None = None) -> LanguageModel:
    """Read the model in `folder`, whose weights are safetensors files or the GGUF file named.

    Raises:
        UnsupportedArchitectureError: its architecture, or a setting of it, is not supported.
        InvalidInputError: files or tensors are missing, damaged, pickled or quantised.
    """
    if gguf_file is None:
        _check_files(folder)
    elif not (folder / gguf_file).is_file():
        raise InvalidInputError(f"no file {gguf_file!r} in the model folder", "give the name of a GGUF file in it")
    try:
        with quiet():
            source: dict[str, Any] = {} if gguf_file is None else {"gguf_file": gguf_file}
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False, **source)
            read_config(config)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                config=config,
                trust_remote_code=False,
                use_safetensors=True if gguf_file is None else None,
                dtype=torch.float32,
                output_loading_info=True,
                **source,
            )
    except (OSError, ValueError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        first = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise InvalidInputError(
            f"the model cannot be read: {first[0]}", "its files are damaged or do not fit"
        ) from error
    module, report = loaded
    missing = sorted(report["missing_keys"])
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise InvalidInputError(
            f"the checkpoint lacks {len(missing)} tensors: {shown}", "the file is incomplete: fetch it again"
        )
    return convert(module.eval())


def _check_files(folder: Path) -> None:
    """Refuse, before anything heavy, what could not be loaded or should not be."""
    path = folder / "config.json"
    if not path.is_file():
        raise InvalidInputError(
            "the model folder holds no config.json", "give a folder that save_pretrained wrote, or a hub id"
        )
    try:
        config = json.loads(path.read_text())
        model_type = config["model_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInputError("config.json is damaged or names no model_type", "fetch the model again") from error
    find_architecture(str(model_type))
    if "quantization_config" in config:
        raise InvalidInputError(
            "the checkpoint is quantised (quantization_config)", "use the plain weights, or a GGUF file"
        )
    if not any(folder.glob("*.safetensors")):
        pickled = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in folder.glob(pattern))
        found = f"only pickled weights ({pickled[0]}), which can run code when opened" if pickled else "no weights"
        raise InvalidInputError(
            f"the model folder holds {found}", "save it as safetensors: model.save_pretrained(folder)"
        )


def open_tokenizer(folder: Path, gguf_file: str | None = None) -> Tokenizer | None:
    """Read the tokenizer in `folder`, or None if there is none.

    Raises:
        InvalidInputError: it is damaged, or of a kind without a fast implementation.
    """
    if gguf_file is None and not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return None
    source: dict[str, Any] = {} if gguf_file is None else {"gguf_file": gguf_file}
    try:
        with quiet():
            loaded = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **source)
            backend = loaded.backend_tokenizer
    except Exception as error:  # damaged files surface as anything from KeyError to a bare Exception
        raise InvalidInputError(f"the tokenizer cannot be read: {error}", "fetch the model again") from error
    first = loaded("a", add_special_tokens=True).input_ids[:1]
    return Tokenizer(backend, loaded.bos_token_id, bos=first == [loaded.bos_token_id])
