"""Proves rules of the house that no linter knows: the namespace, the docstrings, the calls that nobody makes."""

import ast
import re
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

FORBIDDEN_CALLS = {
    "eval",
    "exec",
    "os.system",
    "pickle.load",
    "pickle.loads",
    "pickle.Unpickler",
    "torch.load",
    "yaml.load",
}
# A folder of some person's or of root's, written so that this line is none.
HOME = re.compile(r"(?<![\w.~-])/(?:home/\w|Users/\w|root[/])")
MEANINGLESS_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}


def test_the_namespace_has_no_init_file(root: Path) -> None:
    rooms = ("engine", "server", "clients/python", "clients/cli", "protos")
    assert [room for room in rooms if not (root / room / "stretto").is_dir()] == []
    assert [room for room in rooms if (root / room / "stretto" / "__init__.py").exists()] == []


def test_every_source_file_says_what_it_is_for(root: Path, sources: list[Path]) -> None:
    silent = [path for path in sources if path.read_text().strip() and not ast.get_docstring(parsed(path))]
    assert named(silent, root) == []


def test_no_file_is_named_after_nothing(root: Path, sources: list[Path]) -> None:
    assert named([path for path in sources if path.stem in MEANINGLESS_NAMES], root) == []


def test_nobody_calls_what_can_run_code_from_data(root: Path, sources: list[Path]) -> None:
    found = [
        f"{path.relative_to(root)}:{line}: {call}"
        for path in sources
        for line, call in calls(parsed(path))
        if call in FORBIDDEN_CALLS or call.endswith("(shell=True)")
    ]
    assert found == []


def test_no_file_knows_a_home_folder(root: Path, files: list[Path]) -> None:
    found = [path for path in files if HOME.search(path.read_bytes().decode("utf-8", errors="ignore"))]
    assert named(found, root) == []


def test_imports_go_one_way(root: Path) -> None:
    lint = Path(sysconfig.get_path("scripts")) / "lint-imports"
    done = subprocess.run([str(lint), "--no-cache"], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def calls(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every call as (line, dotted name), with `(shell=True)` after it where that is said."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            shell = any(word.arg == "shell" and ast.unparse(word.value) == "True" for word in node.keywords)
            yield node.lineno, ast.unparse(node.func) + ("(shell=True)" if shell else "")


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def named(paths: list[Path], root: Path) -> list[str]:
    return [str(path.relative_to(root)) for path in paths]
