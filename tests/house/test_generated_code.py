"""Proves that the generated code is what the .proto files say, made by the oldest compiler that we support."""

import re
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path


def generate(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = str(root / "protos" / "generate.py")
    return subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=False)


def test_the_generated_code_is_fresh(root: Path) -> None:
    done = generate(root, "--check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_protos_pass_buf_lint(root: Path, tmp_path: Path) -> None:
    image = tmp_path / "image.binpb"
    assert generate(root, "--image", str(image)).returncode == 0
    buf = Path(sysconfig.get_path("scripts")) / "buf"
    config = str(root / "protos" / "buf.yaml")
    lint = [str(buf), "lint", str(image), "--config", config]
    done = subprocess.run(lint, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_generated_code_asks_for_no_newer_grpc_than_pyproject_does(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    promised = floor("grpcio", project["dependencies"])
    services = list((root / "protos").rglob("*_pb2_grpc.py"))
    asked = {re.findall(r"^GRPC_GENERATED_VERSION = '(.+)'$", path.read_text(), re.MULTILINE)[0] for path in services}
    assert {numbers(version)[:2] for version in asked} == {promised[:2]}


def test_the_generated_code_asks_for_no_newer_protobuf_than_pyproject_does(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    promised = floor("protobuf", project["dependencies"])
    texts = [path.read_text() for path in (root / "protos").rglob("*_pb2.py")]
    asked = {numbers(re.findall(r"^# Protobuf Python Version: (.+)$", text, re.MULTILINE)[0]) for text in texts}
    assert asked
    assert max(asked) <= promised


def floor(name: str, requirements: list[str]) -> tuple[int, ...]:
    (found,) = (entry.removeprefix(f"{name}>=") for entry in requirements if entry.startswith(f"{name}>="))
    return numbers(found)


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
