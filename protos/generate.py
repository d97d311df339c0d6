"""Compile the .proto files in place; with --check, fail if the compiled files are stale.

pyproject.toml pins the compiler (grpcio-tools) to the oldest runtime that we support: generated code runs on that
grpcio and protobuf and on newer ones, never on older ones. `google/rpc/*.proto` come from googleapis-common-protos;
nothing is vendored.
"""

import filecmp
import importlib.util
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).parent
WELL_KNOWN = Path(protoc.__file__).parent / "_proto"


def google_protos() -> Path:
    """The folder below which google/rpc/status.proto lies."""
    spec = importlib.util.find_spec("google.rpc")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("googleapis-common-protos is not installed")
    return Path(next(iter(spec.submodule_search_locations))).parents[1]


def sources() -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob("*.proto"))


def compile_into(*outputs: str) -> None:
    includes = [f"-I{ROOT}", f"-I{WELL_KNOWN}", f"-I{google_protos()}"]
    if protoc.main(["protoc", *includes, *outputs, *sources()]) != 0:
        raise SystemExit("protoc failed")


def python_into(out: Path) -> None:
    compile_into(f"--python_out={out}", f"--pyi_out={out}", f"--grpc_python_out={out}")


def stale(fresh: Path) -> list[str]:
    made = {path.relative_to(fresh) for path in fresh.rglob("*_pb2*.py*")}
    kept = {path.relative_to(ROOT) for path in ROOT.rglob("*_pb2*.py*") if "__pycache__" not in path.parts}
    changed = {path for path in made & kept if not filecmp.cmp(fresh / path, ROOT / path, shallow=False)}
    return sorted(str(path) for path in (made ^ kept) | changed)


def main() -> None:
    match sys.argv[1:]:
        case []:
            python_into(ROOT)
        case ["--check"]:
            with tempfile.TemporaryDirectory() as fresh:
                python_into(Path(fresh))
                if files := stale(Path(fresh)):
                    raise SystemExit("stale, run `python protos/generate.py`: " + ", ".join(files))
        case ["--image", path]:
            compile_into(f"--descriptor_set_out={path}", "--include_imports", "--include_source_info")
        case _:
            raise SystemExit("usage: python protos/generate.py [--check | --image FILE]")


if __name__ == "__main__":
    main()
