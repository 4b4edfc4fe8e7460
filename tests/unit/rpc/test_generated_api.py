"""The generated code is that of the protos, and every module of it loads on its own."""

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[3]
MODULES = sorted(
    path.relative_to(ROOT / "shared").with_suffix("").as_posix().replace("/", ".")
    for path in (ROOT / "shared/hagd/api").rglob("*_pb2*.py")
)


def test_every_module_of_the_api_loads_on_its_own() -> None:
    script = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"
    for order in (MODULES, MODULES[::-1]):
        subprocess.run([sys.executable, "-c", script, *order], check=True, capture_output=True)


def test_a_service_describes_itself_completely() -> None:
    from hagd.api.verification.v1 import verification_pb2  # noqa: PLC0415

    service = verification_pb2.DESCRIPTOR.services_by_name["VerificationService"]
    assert [method.name for method in service.methods] == ["Submit", "Get", "List", "Cancel", "Wait", "Watch"]
    assert service.methods_by_name["Submit"].output_type.full_name == "google.longrunning.Operation"


def floor(name: str) -> Version:
    """Give the oldest version of a library that the distribution accepts."""
    wanted = map(Requirement, tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])
    (found,) = (requirement for requirement in wanted if requirement.name == name)
    (specifier,) = found.specifier
    assert specifier.operator == ">="
    return Version(specifier.version)


def test_no_older_library_is_accepted_than_the_generated_code_loads_with() -> None:
    text = "".join(path.read_text() for path in (ROOT / "shared/hagd/api").rglob("*_pb2*.py"))
    grpc = {Version(found) for found in re.findall(r"^GRPC_GENERATED_VERSION = '(.+)'$", text, re.MULTILINE)}
    stamp = r"ValidateProtobufRuntimeVersion\(\s+\S+\.PUBLIC,\s+(\d+),\s+(\d+),\s+(\d+),"
    protobuf = {Version(".".join(found)) for found in re.findall(stamp, text)}

    assert grpc == {floor("grpcio")}
    assert protobuf == {floor("protobuf")}


@pytest.mark.skipif(importlib.util.find_spec("grpc_tools") is None, reason="needs grpcio-tools, an extra of `dev`")
def test_the_generated_code_is_up_to_date() -> None:
    done = subprocess.run([sys.executable, "protos/generate.py", "--check"], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
