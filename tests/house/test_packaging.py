"""Proves that what is said of the package in one place holds in the others: version, extras, pins, make targets."""

import importlib.metadata
import importlib.util
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


@pytest.fixture(scope="module")
def project(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    return found


def test_the_version_has_one_source(root: Path, project: dict[str, Any], sources: list[Path], stretto: Path) -> None:
    said = subprocess.run([str(stretto), "--version"], capture_output=True, text=True, check=True).stdout
    assert importlib.metadata.version("stretto") == project["version"]
    assert said == f"stretto {project['version']}\n"
    assert [path for path in sources if re.search(r"^__version__\s*=", path.read_text(), re.MULTILINE)] == []


def test_everything_that_the_extras_name_can_be_imported(project: dict[str, Any]) -> None:
    wanted = [Requirement(entry) for entries in project["optional-dependencies"].values() for entry in entries]
    names = {canonicalize_name(entry.name) for entry in wanted} - {"stretto"}
    modules = importlib.metadata.packages_distributions()
    missing = [
        module
        for module, owners in modules.items()
        if names & {canonicalize_name(owner) for owner in owners} and importlib.util.find_spec(module) is None
    ]
    installed = {canonicalize_name(found.name) for found in importlib.metadata.distributions()}
    assert names - installed == set()
    assert missing == []


def test_everything_that_the_dev_extra_brings_is_pinned(root: Path) -> None:
    lines = (root / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    loose = [str(pin) for pin in pins if [each.operator for each in pin.specifier] != ["=="]]
    assert loose == []
    # CUDA's libraries are pinned by the torch that brings them.
    brought = {name for name in closure("stretto", "dev") if not name.startswith(("nvidia-", "cuda-", "triton"))}
    assert brought - {canonicalize_name(pin.name) for pin in pins} == {"stretto"}


def test_the_pins_keep_what_pyproject_asks_for(root: Path, project: dict[str, Any]) -> None:
    lines = (root / "constraints.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    versions = {canonicalize_name(name): version for name, version in pinned.items()}
    asked = [*project["dependencies"], *(e for extra in project["optional-dependencies"].values() for e in extra)]
    wrong = [
        entry
        for entry in map(Requirement, asked)
        if entry.name != "stretto" and not entry.specifier.contains(versions[canonicalize_name(entry.name)])
    ]
    assert wrong == []


def test_every_make_target_is_listed_and_explained(root: Path) -> None:
    makefile = (root / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    listed = subprocess.run(["make", "--silent"], cwd=root, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^make ([a-z-]+)\s+\S", listed, re.MULTILINE)) == targets
    guide = (root / "CONTRIBUTING.md").read_text()
    assert [target for target in sorted(targets) if f"make {target}" not in guide] == []


def closure(name: str, *extras: str) -> set[str]:
    """The distribution and everything that it needs on this machine, installed or not."""
    seen: set[tuple[str, tuple[str, ...]]] = set()
    waiting = [(canonicalize_name(name), tuple(extras))]
    while waiting:
        one = waiting.pop()
        if one not in seen:
            seen.add(one)
            waiting += needs(*one)
    return {each for each, _ in seen}


def needs(name: str, extras: tuple[str, ...]) -> list[tuple[Any, tuple[str, ...]]]:
    entries = map(Requirement, importlib.metadata.requires(name) or [])
    return [
        (canonicalize_name(entry.name), tuple(sorted(entry.extras)))
        for entry in entries
        if entry.marker is None or any(entry.marker.evaluate({"extra": extra}) for extra in (*extras, ""))
    ]
