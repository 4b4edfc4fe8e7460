"""Generate shared/hagd/api from the protos beside this file. Run by `make gen`; `--check` fails on a difference.

Proto path, proto package and Python import path are the same, so generated imports need no rewriting.
"""

import filecmp
import shutil
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

import google.longrunning
import grpc_tools
from grpc_tools import protoc

PROTOS = Path(__file__).parent
PACKAGE = PROTOS.parent / "shared" / "hagd" / "api"
NOTE = '"""Generated from protos/ by `make gen`; never edited by hand."""\n'


def generate(out: Path) -> None:
    """Write the Python code of every proto below `out`, which becomes the folder `hagd/api`."""
    sources = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    well_known = files(grpc_tools) / "_proto"
    google_common = Path(next(iter(google.longrunning.__path__))).parents[1]
    with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryDirectory() as renamed:
        # The package ships this file under another name than the one its own descriptor is registered by.
        operations = Path(renamed) / "google" / "longrunning" / "operations.proto"
        operations.parent.mkdir(parents=True)
        shutil.copy(google_common / "google" / "longrunning" / "operations_proto.proto", operations)
        arguments = ["protoc", f"-I{PROTOS}", f"-I{renamed}", f"-I{well_known}", f"-I{google_common}"]
        arguments += [f"--{kind}_out={scratch}" for kind in ("python", "pyi", "grpc_python")]
        if protoc.main([*arguments, *sources]) != 0:
            raise SystemExit("protoc failed; its complaint stands above")
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(Path(scratch) / "hagd" / "api", out)
    for folder in [out, *(path for path in out.rglob("*") if path.is_dir())]:
        (folder / "__init__.py").write_text(NOTE)


def differences(left: Path, right: Path) -> list[str]:
    """List files that are not the same below both folders."""
    names = {path.relative_to(root) for root in (left, right) for path in root.rglob("*.py*") if path.suffix != ".pyc"}
    return sorted(
        str(name)
        for name in names
        if not ((left / name).exists() and (right / name).exists() and filecmp.cmp(left / name, right / name, False))
    )


def main() -> None:
    if "--check" not in sys.argv[1:]:
        generate(PACKAGE)
        return
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch) / "api"
        generate(fresh)
        stale = differences(fresh, PACKAGE)
    if stale:
        raise SystemExit("generated files are out of date, run `make gen`: " + ", ".join(stale))


if __name__ == "__main__":
    main()
