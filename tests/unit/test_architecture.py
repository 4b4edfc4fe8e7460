"""The architecture beyond what import contracts can say: what is loaded when, measured in fresh processes.

Import contracts (`make check`) read the source; a lazy import inside a function is an import to them. Here the
modules are really imported, one process per question, to see that nobody waits for torch who does not compute.
"""

import json
import os
import pkgutil
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, entry_points, packages_distributions, requires
from pathlib import Path

import grimp
import pytest
from packaging.requirements import Requirement

import hagd

ROOT = Path(__file__).parents[2]
SERVICES = ("hagd_transcoder", "hagd_coarsening", "hagd_traversal", "hagd_verification")
DRIVER = ("artifacts", "cli", "deployment", "events", "execution", "extraction", "hub")
DRIVER += ("pipeline", "rpc", "telemetry", "testing")
"""Packages of the core that a driver process loads."""
HEAVY = {"torch", "transformers", "torch_geometric", "scipy", "safetensors.torch"}
ADAPTERS = ("datasets", "kafka", "s3", "ray", "telemetry")
"""Extras of what a deployment may choose; a service loads them when its settings name them."""
OPENED_BY_TRANSFORMERS = {"accelerate", "gguf"}
"""Libraries that transformers imports by itself when it places or reads weights."""
HELP_SECONDS = 0.5

LOAD = """
import importlib, json, sys
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
print(json.dumps(sorted(sys.modules)))
"""


def loaded_by(*modules: str) -> set[str]:
    """Import modules in a fresh process; give everything that is loaded then."""
    done = subprocess.run(
        [sys.executable, "-c", LOAD, json.dumps(modules)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def modules_below(package: str) -> list[str]:
    folder = Path(hagd.__file__).parent / package
    return [f"hagd.{package}", *(found.name for found in pkgutil.walk_packages([str(folder)], f"hagd.{package}."))]


def driver_modules() -> list[str]:
    return [name for package in DRIVER for name in modules_below(package)]


def test_the_list_of_driver_modules_is_not_empty_by_mistake() -> None:
    names = driver_modules()

    assert {"hagd.cli.app", "hagd.execution.worker", "hagd.pipeline.loop", "hagd.rpc.wiring"} <= set(names)


def test_drivers_services_and_the_declarations_of_stages_load_nothing_heavy() -> None:
    declared = [point.value.partition(":")[0] for point in entry_points(group="hagd.stages")]
    bootstraps = [f"{service}.bootstrap" for service in SERVICES]

    assert len(declared) >= 5
    assert loaded_by(*driver_modules(), *declared, *bootstraps) & HEAVY == set()


@pytest.mark.parametrize("module", ["hagd", "hagd.cli.app"])
def test_the_doors_load_no_numerical_library_and_no_grpc(module: str) -> None:
    assert loaded_by(module) & (HEAVY | {"numpy", "grpc"}) == set()


def test_help_is_printed_within_half_a_second_of_processor_time() -> None:
    hagd_command = Path(sys.executable).parent / "hagd"

    assert min(processor_seconds([str(hagd_command), "--help"]) for _ in range(2)) < HELP_SECONDS


def processor_seconds(command: list[str]) -> float:
    """Give the processor time of a command: unlike the clock on the wall it hardly depends on who else is at work."""
    before = os.times()
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def test_every_package_of_the_distribution_stands_under_the_import_contracts() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {Path(path).name for path in settings["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]}

    assert packages == {"hagd", *SERVICES}
    assert set(settings["tool"]["importlinter"]["root_packages"]) == packages
    assert packages == {
        path.parent.name for path in [*ROOT.glob("shared/*/__init__.py"), *ROOT.glob("services/*/__init__.py")]
    }


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_has_the_shape_of_a_service(service: str) -> None:
    folder = ROOT / "services" / service
    names = {path.name for path in folder.iterdir()}

    assert {"__init__.py", "__main__.py", "bootstrap.py", "config.py", "servicer.py", "handlers.py", "domain"} <= names


def test_every_stage_names_a_function_that_exists() -> None:
    """The function itself is not imported here, because that would load torch; its module and text are looked up."""
    for point in entry_points(group="hagd.stages"):
        module, _, function = point.load().run.partition(":")
        source = ROOT / "services" / Path(*module.split(".")).with_suffix(".py")

        assert f"\ndef {function}(" in source.read_text(), f"{point.name}: {module}:{function}"


@cache
def imports() -> grimp.ImportGraph:
    return grimp.build_graph("hagd", *SERVICES, include_external_packages=True)


@pytest.mark.parametrize("service", SERVICES)
def test_the_extra_of_a_service_brings_everything_that_it_runs(service: str) -> None:
    """An image is installed with the extra of its service and those of the adapters that it is meant for, and nothing
    else. Programs for developers may need more."""
    own = {"hagd", *SERVICES}
    specs = [point.load() for point in entry_points(group="hagd.stages") if point.value.startswith(f"{service}.")]
    started = {f"{service}.__main__", *(spec.run.partition(":")[0] for spec in specs)}
    roots = {name.partition(".")[0] for module in started for name in imports().find_upstream_modules(module)}
    needed = roots - own - set(sys.stdlib_module_names)
    extras = (service.removeprefix("hagd_"), *ADAPTERS)
    brought = frozenset[str]().union(*(distributions_of("hagd", extra) for extra in extras))
    providers = packages_distributions()

    assert {"grpc", "torch", "pydantic"} <= needed
    assert {name for name in needed if not {normalised(found) for found in providers[name]} & brought} == set()


@pytest.mark.parametrize("service", SERVICES)
def test_the_extra_of_a_service_names_nothing_that_no_code_imports(service: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {normalised(Requirement(text).name) for text in extras[service.removeprefix("hagd_")]}
    used = {name.partition(".")[0] for name in imports().modules if imports().find_modules_that_directly_import(name)}
    providers = packages_distributions()
    imported = {normalised(found) for name in used for found in providers.get(name, ())}

    assert named - imported - OPENED_BY_TRANSFORMERS == set()


@cache
def distributions_of(name: str, extra: str = "") -> frozenset[str]:
    """Give what installing a distribution installs, by the metadata of what is installed here."""
    found = {name}
    for text in requires(name) or ():
        requirement = Requirement(text)
        wanted = requirement.marker is None or requirement.marker.evaluate({"extra": extra})
        inner = normalised(requirement.name)
        if wanted and inner not in found and is_installed(inner):
            found |= distributions_of(inner)
    return frozenset(found)


def is_installed(name: str) -> bool:
    try:
        return bool(distribution(name))
    except PackageNotFoundError:
        return False


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
