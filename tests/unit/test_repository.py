"""Promises that the repository as a whole makes: what its files may hold, and that its pages follow from its code."""

import ast
import os
import re
import runpy
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from hagd.cli.services import FIRST_PORT, SERVICES

ROOT = Path(__file__).parents[2]
IMAGES = [f"hagd-{service}" for service in SERVICES]
KUSTOMIZE = ROOT / "deploy" / "kustomize"
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted([*(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]),
]
UNPICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc", "manager"}


@cache
def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


@cache
def text_files() -> dict[Path, str]:
    found: dict[Path, str] = {}
    for path in tracked():
        data = path.read_bytes()
        if b"\0" not in data:
            found[path] = data.decode()
    return found


@cache
def sources() -> list[tuple[Path, ast.Module]]:
    """Parse every hand-written Python file."""
    python = [(path, text) for path, text in text_files().items() if path.suffix == ".py"]
    return [(path, ast.parse(text)) for path, text in python if "api" not in path.relative_to(ROOT).parts]


def places(pattern: str) -> list[str]:
    """Find a pattern in tracked text files."""
    return [
        f"{path.relative_to(ROOT)}: {match.group()!r}"
        for path, text in text_files().items()
        for match in re.finditer(pattern, text)
    ]


def load_yaml(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


# What files may hold


def test_no_file_names_a_folder_of_somebody_s_machine() -> None:
    own = [re.escape(str(path)) for path in (ROOT, Path.home()) if len(path.parts) > 1]

    assert places(rf"(?<![\w.-])(?:{'|'.join([*own, '/home', '/Users'])})/\w+") == []


def test_no_file_names_a_package_index() -> None:
    assert places(r"(?<!no-emit-)index-" + r"url|find-" + r"links|https?://\S+/(?:simple|whl)\b") == []


def test_no_file_holds_what_looks_like_a_secret() -> None:
    assert places(r"-----BEGIN [A-Z ]*PRIVATE KEY|\bhf_[A-Za-z0-9]{30,}|\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_\w{30,}") == []


def test_nothing_that_can_run_code_is_ever_read() -> None:
    assert [f"{path.relative_to(ROOT)}:{line}" for path, tree in sources() for line in unsafe_lines(tree)] == []


def unsafe_lines(tree: ast.AST) -> Iterator[int]:
    """Give the lines that import a pickler, call torch.load for more than tensors, or allow pickles or remote code."""
    tensors_alone = {
        call.func
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and any(ast.unparse(it) == "weights_only=True" for it in call.keywords)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names) if {name.name.partition(".")[0] for name in names} & UNPICKLERS:
                yield node.lineno
            case ast.ImportFrom(module=str(module)) if module.partition(".")[0] in UNPICKLERS:
                yield node.lineno
            case ast.Attribute(value=ast.Name(id="torch"), attr="load") if node not in tensors_alone:
                yield node.lineno
            case ast.keyword(arg="trust_remote_code" | "allow_pickle", value=value):
                if not (isinstance(value, ast.Constant) and value.value is False):
                    yield node.lineno


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(f)",
        "torch.load(f, weights_only=x)",
        "read = torch.load",
        "f(trust_remote_code=True)",
        "f(allow_pickle=x)",
    ],
)
def test_the_check_for_unsafe_reading_finds_it(line: str) -> None:
    assert list(unsafe_lines(ast.parse(line))) == [1]


def test_tensors_alone_may_be_read_from_a_pickle() -> None:
    assert list(unsafe_lines(ast.parse("torch.load(f, weights_only=True)"))) == []


def test_every_module_opens_by_saying_what_it_is_for() -> None:
    assert [str(path.relative_to(ROOT)) for path, tree in sources() if not ast.get_docstring(tree)] == []


def test_no_module_has_a_vague_name() -> None:
    # Stubs bear the names of the library that they describe.
    own = [path.relative_to(ROOT) for path in tracked() if not path.is_relative_to(ROOT / "typings")]

    assert [str(path) for path in own if {path.stem, *path.parts} & VAGUE] == []


def test_nothing_is_left_to_do_in_the_source() -> None:
    assert places(r"\b(?:TO" + r"DO|FIX" + r"ME|X" + r"XX)\b") == []


# Commands


def test_every_target_of_the_makefile_is_explained_by_make_help() -> None:
    text = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][a-z-]*):", text, re.MULTILINE))
    done = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    explained = {line.split()[1] for line in done.stdout.splitlines() if len(line.split()) > 2}

    assert targets == explained
    assert targets == set(re.search(r"^\.PHONY: (.+)$", text, re.MULTILINE).group(1).split())  # type: ignore[union-attr]
    assert {"setup", "demo", "demo-llm", "test", "check", "gen", "docs", "bench-circuits"} <= targets


def test_ci_runs_the_commands_of_a_person_and_accepts_no_missing_browser() -> None:
    script = ROOT / ".ci" / "run"
    lines = script.read_text().splitlines()

    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in lines
    assert [line for line in lines if line.startswith("make ")] == [
        "make check",
        "make test",
        'make test-servers || make test-servers PYTEST_FLAGS="--last-failed --last-failed-no-failures none"',
    ]
    assert "export HAGD_REQUIRE_BROWSER=1" in lines


def test_the_version_is_the_same_everywhere() -> None:
    version = project()["project"]["version"]
    released = re.findall(r"^## (\d\S*)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    tags = [image["newTag"] for image in load_yaml(KUSTOMIZE / "base" / "kustomization.yaml")[0]["images"]]

    assert load_yaml(ROOT / "CITATION.cff")[0]["version"] == version
    assert not released or released[0].split()[0] == version
    assert set(tags) == {version}
    assert all(f":{version}" in service["image"] for service in compose()["services"].values())


# Pages


def generated() -> dict[Path, Any]:
    return runpy.run_path(str(ROOT / "docs" / "generate.py"))


def test_pages_that_follow_from_the_code_are_up_to_date() -> None:
    for page, render in generated()["PAGES"].items():
        assert page.read_text() == render(), f"{page.relative_to(ROOT)} is out of date: run `make docs`"


def test_every_kind_of_error_has_a_remedy_and_no_other_has() -> None:
    made = generated()

    assert [kind.kind for _, kind in made["error_types"]()] == list(made["REMEDIES"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_points_to_exist(page: Path) -> None:
    text = page.read_text()
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    named = re.findall(r"`((?:shared|services|docs|deploy|tests|protos|benchmarks)/[\w./-]+)`", text)
    missing = [link for link in links if not (page.parent / link).exists()]

    assert missing + [name for name in named if not (ROOT / name).exists()] == []


def executed_blocks(page: Path) -> str:
    """Give the marked code blocks of a page as one program, on the lines where they stand."""
    program: list[str] = []
    for block in re.finditer(r"<!-- executed -->\n```python\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE):
        start = page.read_text().count("\n", 0, block.start(1))
        program += [""] * (start - len(program)) + block.group(1).splitlines()
    return "\n".join(program)


@pytest.mark.parametrize("page", [page for page in PAGES if executed_blocks(page)], ids=lambda page: page.name)
def test_code_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(executed_blocks(page), str(page), "exec"), {"__name__": "page"})  # noqa: S102  # our own pages


# Deployment


def compose() -> dict[str, Any]:
    return load_yaml(ROOT / "deploy" / "compose.yaml")[0]


def test_every_yaml_file_can_be_read() -> None:
    files = [path for path in tracked() if path.suffix in {".yaml", ".yml", ".cff"}]

    assert len(files) >= 10
    assert all(document is not None for path in files for document in load_yaml(path))


def test_no_image_is_taken_by_a_moving_tag() -> None:
    froms = re.findall(r"^FROM (\S+)", (ROOT / "deploy" / "Dockerfile").read_text(), re.MULTILINE)
    outside = [image for image in froms if image != "${BASE}"]

    assert outside
    assert all(re.search(r":\d+\.\d+\.\d+", image) for image in outside), outside
    assert [place for place in places(r"\S+:latest\b") if place.startswith(("deploy", "skaffold"))] == []


def test_the_image_runs_without_rights() -> None:
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    last = text[text.rindex("FROM ") :]

    assert re.findall(r"^USER (\S+)", last, re.MULTILINE) == ["65532:65532"]
    assert last.index("USER ") < last.index("ENTRYPOINT ")


def test_compose_starts_every_service_without_rights_and_on_loopback_alone() -> None:
    services = compose()["services"]

    assert list(services) == list(SERVICES)
    for number, (name, service) in enumerate(services.items()):
        assert service["build"]["args"]["SERVICE"] == name
        assert service["ports"] == [f"127.0.0.1:{FIRST_PORT + number}:{FIRST_PORT}"]
        assert (service["user"], service["read_only"], service["cap_drop"]) == ("65532:65532", True, ["ALL"])


def test_every_image_has_an_extra_and_a_package() -> None:
    assert set(SERVICES) <= set(project()["project"]["optional-dependencies"])
    assert all((ROOT / "services" / f"hagd_{service}" / "__main__.py").is_file() for service in SERVICES)


def test_kubernetes_runs_every_service_and_gives_it_a_name() -> None:
    base = KUSTOMIZE / "base"
    kustomization = load_yaml(base / "kustomization.yaml")[0]
    objects = [found for name in kustomization["resources"] for found in load_yaml(base / name)]
    deployments = {found["metadata"]["name"]: found for found in objects if found["kind"] == "Deployment"}

    assert list(deployments) == IMAGES
    assert [found["metadata"]["name"] for found in objects if found["kind"] == "Service"] == IMAGES
    assert [image["name"] for image in kustomization["images"]] == IMAGES
    for name, deployment in deployments.items():
        assert deployment["spec"]["template"]["spec"]["containers"] == [{"name": "stage", "image": name}]


def test_every_pod_is_hardened_and_probed() -> None:
    kustomization = load_yaml(KUSTOMIZE / "base" / "kustomization.yaml")[0]
    assert kustomization["patches"] == [{"path": "stage.yaml", "target": {"kind": "Deployment"}}]

    check_pod(load_yaml(KUSTOMIZE / "base" / "stage.yaml")[0]["spec"]["template"]["spec"])


def check_pod(pod: dict[str, Any]) -> None:
    container = pod["containers"][0]

    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert all(
        container[f"{probe}Probe"]["grpc"] == {"port": FIRST_PORT} for probe in ("startup", "readiness", "liveness")
    )
    assert "memory" in container["resources"]["limits"]


def test_the_network_is_closed_by_default() -> None:
    policies = load_yaml(KUSTOMIZE / "base" / "network-policy.yaml")

    assert policies[0]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert all(rule["from"] for policy in policies[1:] for rule in policy["spec"]["ingress"])


def test_skaffold_builds_what_kubernetes_runs() -> None:
    skaffold = load_yaml(ROOT / "skaffold.yaml")[0]
    artifacts = skaffold["build"]["artifacts"]

    assert [artifact["image"] for artifact in artifacts] == IMAGES
    assert [artifact["docker"]["buildArgs"]["SERVICE"] for artifact in artifacts] == list(SERVICES)
    assert all((ROOT / artifact["docker"]["dockerfile"]).is_file() for artifact in artifacts)
    assert all((ROOT / path / "kustomization.yaml").is_file() for path in skaffold["manifests"]["kustomize"]["paths"])
    assert [forward["localPort"] for forward in skaffold["portForward"]] == [FIRST_PORT + n for n in range(len(IMAGES))]


def test_the_local_overlay_renders_to_hardened_pods() -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl, which renders the overlay, is not installed; the files themselves were checked")
    command = ["kubectl", "kustomize", str(KUSTOMIZE / "overlays" / "local")]
    rendered = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    pods = [
        found["spec"]["template"]["spec"] for found in yaml.safe_load_all(rendered) if found["kind"] == "Deployment"
    ]

    assert len(pods) == len(IMAGES)
    for pod in pods:
        check_pod(pod)
