"""Text without a hub: the documentation that installed packages carry in their modules, one module a document.

Their versions are pinned, so the text is the same wherever the benchmark runs. Packages whose modules repeat each
other's documentation are left out, or held-out documents would not be new.
"""

import ast
import json
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Final

PACKAGES: Final = ("numpy", "scipy", "sympy", "networkx", "sklearn", "hypothesis", "torch", "igraph", "urllib3")
SHORTEST: Final = 400
"""Characters of a docstring that is taken, and of a document."""


def write_prose(path: Path) -> int:
    """Write lines of JSON with `text` and `source`; give how many."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with path.open("w", encoding="utf-8") as stream:
        for module in _modules():
            if len(text := _documentation(module)) >= SHORTEST:
                stream.write(json.dumps({"text": text, "source": module.stem}) + "\n")
                count += 1
    return count


def _modules() -> Iterator[Path]:
    paths = sysconfig.get_paths()
    yield from sorted(Path(paths["stdlib"]).glob("*.py"))
    for package in PACKAGES:
        found = Path(paths["purelib"], package).rglob("*.py")
        yield from sorted(it for it in found if "tests" not in it.parts)


def _documentation(module: Path) -> str:
    try:
        tree = ast.parse(module.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, ValueError):
        return ""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    texts = (ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, kinds))
    return "\n\n".join(text for text in texts if len(text) >= SHORTEST)
