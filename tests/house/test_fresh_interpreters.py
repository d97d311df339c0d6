"""Proves what a fresh interpreter loads: no torch where that is promised, the standard library alone for --help."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "numpy", "msgspec", "tokenizers", "transformers", "rich", "structlog"}


def loaded(code: str) -> set[str]:
    """The top-level modules in a fresh interpreter after this code."""
    tell = "\nimport json, sys; sys.stderr.write(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-I", "-c", code + tell], capture_output=True, text=True, check=True)
    return set(json.loads(done.stderr.splitlines()[-1]))


def test_the_client_loads_neither_torch_nor_numpy_nor_the_server() -> None:
    assert not loaded("import stretto.client") & HEAVY


@pytest.mark.parametrize(
    "module", ["stretto.server.app", "stretto.engine.core", "stretto.cli.serve", "stretto.cli.chat"]
)
def test_what_runs_outside_the_engine_process_loads_no_torch(module: str) -> None:
    assert not loaded(f"import {module}") & {"torch", "transformers"}


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_need_the_standard_library_alone(option: str) -> None:
    foreign = loaded(f"from stretto.cli.main import main; main([{option!r}])") - loaded("pass")
    assert foreign <= sys.stdlib_module_names | {"stretto"}


def test_every_module_that_says_no_torch_keeps_its_word(root: Path, sources: list[Path]) -> None:
    names = [module_of(path) for path in sources if "stretto" in path.parts and says_no_torch(path)]
    assert len(names) > 5
    code = f"""
import importlib, sys
for name in {names!r}:
    importlib.import_module(name)
    assert "torch" not in sys.modules, name + " loads torch"
"""
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def says_no_torch(path: Path) -> bool:
    return "no torch" in (ast.get_docstring(ast.parse(path.read_text())) or "").lower()


def module_of(path: Path) -> str:
    parts = path.with_suffix("").parts
    within = parts[len(parts) - 1 - parts[::-1].index("stretto") :]
    return ".".join(within).removesuffix(".__init__")
