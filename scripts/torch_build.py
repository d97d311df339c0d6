"""Which build of torch to install: a machine without an NVIDIA GPU gets one without CUDA wherever one can be had."""

import json
import platform
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from pip_run import DOWNLOADING, Pip, PipFailed, bytes_announced
from progress import Step, on_terminal

CPU_BUILDS = "https://download.pytorch.org/whl/cpu"
# A CPU build is about 200 MB, a CUDA build more than 500 MB before the libraries that it asks for.
LARGEST_CPU_BUILD_BYTES = 350_000_000
CUDA_LIBRARY = re.compile(r"(nvidia|cuda)-")
SECONDS_TO_STOP = 10


def gpu_here() -> bool:
    return any(Path("/dev").glob("nvidia[0-9]*")) or shutil.which("nvidia-smi") is not None


def prepare_torch(pip: Pip, step: Step, constraints: Path, scratch: Path) -> None:
    """Make sure that the install which follows takes the right build; may install torch, and may warn."""
    if gpu_here():
        return
    cuda = cuda_build_announced(pip, constraints, scratch)
    if cuda is None or installed_from_cpu_builds(pip, constraints):
        return
    warn(step, cuda)


def cuda_build_announced(pip: Pip, constraints: Path, scratch: Path) -> str | None:
    """Ask pip what torch it would take, without taking it. The CUDA wheel's size, or None for a CPU build."""
    report = scratch / "torch.json"
    asked = ("install", "--dry-run", "--ignore-installed", "--no-deps", "--report", str(report))
    asking = pip.lines(*asked, "--constraint", str(constraints), "torch", doing="asking which torch there is")
    for line in asking:
        # An index without separate metadata sends the whole wheel: its announced size is answer enough.
        if (found := DOWNLOADING.match(line)) and bytes_announced(found) > LARGEST_CPU_BUILD_BYTES:
            asking.close()
            return f"{found['count']} {found['unit']}"
    return "over 500 MB" if needs_cuda(json.loads(report.read_text()), platform.machine()) else None


def needs_cuda(report: dict[str, Any], machine: str) -> bool:
    """Whether the torch of pip's report asks for NVIDIA's libraries on this kind of machine."""
    (torch,) = (each["metadata"] for each in report["install"])
    for requirement in torch.get("requires_dist", []):
        name, _, marker = requirement.partition(";")
        elsewhere = "extra ==" in marker or ("platform_machine" in marker and machine not in marker)
        if CUDA_LIBRARY.match(name) and not elsewhere:
            return sys.platform == "linux"
    return False


def pinned_torch(constraints: Path) -> str:
    found = re.search(r"^torch==(\S+)$", constraints.read_text(), re.MULTILINE)
    assert found is not None, f"{constraints} does not pin torch"
    return found[1]


def installed_from_cpu_builds(pip: Pip, constraints: Path) -> bool:
    """PyTorch's index is asked once and briefly: many networks let nobody but a mirror of PyPI through."""
    wanted = f"torch=={pinned_torch(constraints)}+cpu"
    where = ("--index-url", CPU_BUILDS, "--retries", "0", "--timeout", "10")
    try:
        for _ in pip.lines("install", "--no-deps", *where, wanted, doing="CPU build of torch"):
            pass
    except PipFailed:
        return False
    return True


def warn(step: Step, size: str) -> None:
    step.say(
        f"This machine has no NVIDIA GPU, but the only torch to be had is the CUDA build ({size}): with NVIDIA's "
        f"libraries about 3 GB to download and 5 GB on disk. (pip got no CPU build from {CPU_BUILDS}.) It works "
        "without a GPU. To do without it: stop, put a CPU wheel of the same release into a folder, and run this again "
        "with PIP_FIND_LINKS=FOLDER."
    )
    if not on_terminal():
        return
    for left in range(SECONDS_TO_STOP, 0, -1):
        step.doing(f"Ctrl-C stops; going on in {left} s")
        time.sleep(1)
