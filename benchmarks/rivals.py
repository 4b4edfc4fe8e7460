"""Environments of rivals: made once below `build/`, with the same release of torch as ours."""

import subprocess
import sys
from pathlib import Path
from typing import Final

import torch

from benchmarks.tables import BUILD

SPARSIFY: Final = ("eai-sparsify", "eai-sparsify==1.3.3")
CIRCUIT_TRACER: Final = ("circuit-tracer", "circuit-tracer==0.5.0", "transformers<=4.57.3")
"""A fork of the tool whose mathematics is that of the original; it needs an older transformers."""


def rival_python(name: str, *requirements: str) -> Path:
    """Give the interpreter of the environment `name`, installing what it requires where it is not there yet.

    Raises:
        subprocess.CalledProcessError: it cannot be installed.
    """
    folder = BUILD / "rivals" / name
    python = folder / "bin" / "python"
    ready = folder / ".ready"
    if not ready.exists():
        uv = Path(sys.executable).with_name("uv")
        same_torch = f"torch=={torch.__version__.partition('+')[0]}"
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, folder], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "--python", python, *requirements, same_torch], check=True)
        ready.touch()
    return python.absolute()
