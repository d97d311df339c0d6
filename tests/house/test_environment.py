"""Proves that `make` sets up .venv once, knows a CUDA build of torch, and never trusts an install cut short."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture
def scripts(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(root / "scripts"))
    return root / "scripts"


@pytest.fixture
def environment(scripts: Path) -> ModuleType:
    return importlib.import_module("environment")


@pytest.fixture
def checkout(root: Path, tmp_path: Path) -> Path:
    """The files that the environment is made from, in a folder of their own."""
    shutil.copytree(root / "scripts", tmp_path / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "constraints.txt", "Makefile"):
        shutil.copy(root / name, tmp_path / name)
    return tmp_path


def make_environment(checkout: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run the script as make does, where no package index can be had."""
    nowhere = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""}
    command = [sys.executable, "scripts/environment.py", "dev", "--step", "1/3"]
    return subprocess.run(
        command, cwd=checkout, env=os.environ | nowhere | settings, capture_output=True, text=True, check=False
    )


def pretend_made(checkout: Path, **changes: Any) -> None:
    """Leave an environment that says it was made from these files."""
    environment = importlib.import_module("environment")
    made = environment.State(
        whole=True,
        extra="dev",
        python=HERE,
        folder=str(checkout / ".venv"),
        sources=environment.digest(checkout / "pyproject.toml", checkout / "constraints.txt"),
    )
    python = checkout / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    state = checkout / ".venv" / "stretto.json"
    state.write_text(json.dumps({name: changes.get(name, getattr(made, name)) for name in made.__slots__}))


def test_a_second_start_does_nothing_and_needs_no_network(environment: ModuleType, checkout: Path) -> None:
    pretend_made(checkout)
    done = make_environment(checkout)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("[1/3] environment")
    assert done.stdout.endswith("(nothing to do)\n")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"whole": False}, "its install was cut short"),
        ({"folder": "/elsewhere/.venv"}, "it was made in /elsewhere/.venv"),
        ({"python": "3.9"}, "it was made with Python 3.9"),
    ],
)
def test_an_environment_that_cannot_be_trusted_is_made_anew(
    environment: ModuleType, checkout: Path, changes: dict[str, Any], said: str
) -> None:
    pretend_made(checkout, **changes)
    left = checkout / ".venv" / "half-installed"
    left.touch()
    done = make_environment(checkout)
    assert f"removing .venv: {said}" in done.stdout
    assert not left.exists()


def test_a_failed_install_says_why_and_is_not_taken_for_a_whole_one(environment: ModuleType, checkout: Path) -> None:
    done = make_environment(checkout)
    assert done.returncode == 1
    assert "ERROR:" in done.stderr  # pip's own words
    assert str(checkout / ".venv" / "install.log") in done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads((checkout / ".venv" / "stretto.json").read_text())["whole"] is False


def test_a_folder_that_is_no_environment_is_left_alone(environment: ModuleType, checkout: Path) -> None:
    kept = checkout / ".venv" / "notes.txt"
    kept.parent.mkdir()
    kept.write_text("mine")
    done = make_environment(checkout)
    assert done.returncode == 1
    assert "Move it away" in done.stderr
    assert [path.name for path in kept.parent.iterdir()] == ["notes.txt"]


def test_the_dev_environment_is_good_enough_to_serve_and_not_the_other_way_round(environment: ModuleType) -> None:
    dev = environment.State(whole=True, extra="dev", python=HERE, folder="/x/.venv", sources="1")
    serve = replace(dev, extra="serve")
    assert dev.serves(serve)
    assert not serve.serves(dev)
    assert not dev.serves(replace(dev, sources="2"))
    assert not replace(dev, whole=False).serves(dev)


def report(*requirements: str) -> dict[str, Any]:
    return {"install": [{"metadata": {"name": "torch", "version": "2.13.0", "requires_dist": list(requirements)}}]}


@pytest.mark.parametrize(
    ("requirements", "machine", "cuda"),
    [
        (["filelock", "sympy>=1.13.3"], "x86_64", False),
        (["filelock", 'nvidia-nccl-cu13==2.29.7; platform_system == "Linux"'], "x86_64", True),
        (["filelock", 'cuda-bindings<14,>=13.0.3; platform_system == "Linux"'], "x86_64", True),
        (['nvidia-nccl-cu12==2.27; platform_machine == "x86_64"'], "aarch64", False),
        (['nvidia-nccl-cu12==2.27; extra == "cuda"'], "x86_64", False),
    ],
)
def test_a_cuda_build_is_known_by_the_libraries_that_it_asks_for(
    scripts: Path, requirements: list[str], machine: str, cuda: bool
) -> None:
    torch_build = importlib.import_module("torch_build")
    assert torch_build.needs_cuda(report(*requirements), machine) is cuda


def test_downloads_are_added_up_from_what_pip_prints(scripts: Path) -> None:
    downloads = importlib.import_module("pip_run").Downloads()
    for line in (
        "Collecting numpy",
        "  Downloading numpy-2.4.6-cp311-cp311-manylinux_2_28_x86_64.whl.metadata (6.6 kB)",
        "  Downloading numpy-2.4.6-cp311-cp311-manylinux_2_28_x86_64.whl (16.9 MB)",
        "Progress 262144 of 16918164",
    ):
        downloads.read(line)
    assert downloads.total_bytes == 6_600 + 262_144
    downloads.read("Progress 16918164 of 16918164")
    downloads.read("Using cached rich-15.0.0-py3-none-any.whl (240 kB)")
    downloads.finish()
    assert downloads.total_bytes == 6_600 + 16_918_164


def test_settings_that_would_install_elsewhere_do_not_reach_pip(scripts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_TARGET", "/elsewhere")
    monkeypatch.setenv("PIP_USER", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "/wheels")
    settings = importlib.import_module("pip_run").settings()
    assert "PIP_TARGET" not in settings
    assert settings["PIP_USER"] == "0"
    assert settings["PIP_FIND_LINKS"] == "/wheels"


def test_make_says_which_python_it_looked_for(checkout: Path) -> None:
    command = ["make", "--silent", "PYTHON=no-such-python", "check"]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "error: Stretto needs Python 3.11 or newer; tried: no-such-python." in done.stderr
