"""The environment of eai-sparsify: made once below `build/`, with the same release of torch as ours."""

import subprocess
import sys
from pathlib import Path
from typing import Final

import torch

from benchmarks.tables import BUILD

_RELEASE: Final = "eai-sparsify==1.3.3"


def rival_python() -> Path:
    """Give the interpreter with eai-sparsify, installing it where it is not yet.

    Raises:
        subprocess.CalledProcessError: it cannot be installed.
    """
    folder = BUILD / "rivals" / "eai-sparsify"
    python = folder / "bin" / "python"
    ready = folder / ".ready"
    if not ready.exists():
        uv = Path(sys.executable).with_name("uv")
        same_torch = f"torch=={torch.__version__.partition('+')[0]}"
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, folder], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "--python", python, _RELEASE, same_torch], check=True)
        ready.touch()
    return python.absolute()
