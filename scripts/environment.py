"""Makes .venv with Stretto in it: `python3 scripts/environment.py serve|dev [--step 1/3]`.

It needs a Python 3.11+ and pip, nothing else. A file in .venv says what it was made from; while that holds, this does
nothing. The file also says when an install was cut short: then the environment is made anew, because a package that is
half there looks installed to pip.
"""

import argparse
import fcntl
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pip_run import Pip, PipFailed
from progress import Step
from torch_build import gpu_here, pinned_torch, prepare_torch

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LOG = VENV / "install.log"
STATE = VENV / "stretto.json"
CONSTRAINTS = ROOT / "constraints.txt"
# Each extra holds those before it.
EXTRAS = ("serve", "dev")
LINES_OF_A_FAILURE = 12
# The first pip that can install into another Python's environment.
OLDEST_PIP = (22, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What an environment was made from. A whole one is as good as a new one made from the same."""

    whole: bool
    extra: str
    python: str
    folder: str
    sources: str

    def serves(self, wanted: "State") -> bool:
        """Whether nothing has to be done to get what is wanted."""
        return self.same_base(wanted) and self.sources == wanted.sources and self._holds(wanted.extra)

    def same_base(self, wanted: "State") -> bool:
        """Whether pip can turn this environment into what is wanted."""
        return self.whole and self.python == wanted.python and self.folder == wanted.folder

    def _holds(self, extra: str) -> bool:
        return EXTRAS.index(self.extra) >= EXTRAS.index(extra)


def main() -> None:
    arguments = argparse.ArgumentParser(description="Make .venv with Stretto in it.")
    arguments.add_argument("extra", choices=EXTRAS)
    arguments.add_argument("--step", default="1/1", help="what to print in front, such as 1/3")
    asked = arguments.parse_args()
    wanted = State(
        whole=True,
        extra=asked.extra,
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        folder=str(VENV),
        sources=digest(ROOT / "pyproject.toml", CONSTRAINTS),
    )
    step = Step(asked.step, "environment", f".venv, Python {wanted.python}")
    if ready(wanted):
        step.done("nothing to do")
        return
    try:
        with step.line_kept(), alone(step):
            step.done("nothing to do" if ready(wanted) else make(wanted, step))
    except PipFailed as failure:
        raise SystemExit(explained(failure)) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def digest(*paths: Path) -> str:
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in paths)).hexdigest()


def state() -> State | None:
    try:
        return State(**json.loads(STATE.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def ready(wanted: State) -> bool:
    now = state()
    return now is not None and now.serves(wanted) and PYTHON.exists()


@contextmanager
def alone(step: Step) -> Iterator[None]:
    """Two makes at once take turns."""
    with Path(__file__).open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            step.doing("waiting for another make to finish with .venv")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def make(wanted: State, step: Step) -> str:
    """Bring .venv to the wanted state; the remark for the step's last line."""
    before = prepared_venv(wanted, step)
    with LOG.open("w") as log:
        pip = Pip(PYTHON, log, step)
        try:
            install(pip, wanted, step)
        except (PipFailed, KeyboardInterrupt):
            if before is not None and not pip.changed:
                write(before)
            raise
    write(wanted)
    return f"{torch_remark()}; downloads: {pip.downloaded_bytes / 1e6:.0f} MB"


def install(pip: Pip, wanted: State, step: Step) -> None:
    get_pip(pip)
    if (build := torch_build()) is None or build.partition("+")[0] != pinned_torch(CONSTRAINTS):
        prepare_torch(pip, step, CONSTRAINTS, VENV)
    arguments = ("install", "--constraint", str(CONSTRAINTS), "--editable", f"{ROOT}[{wanted.extra}]")
    for _ in pip.lines(*arguments, doing="asking for the packages"):
        pass


def prepared_venv(wanted: State, step: Step) -> State | None:
    """Leave an environment to install into, marked as not whole; the state that it had, None for an empty one."""
    now = state()
    if now is not None and not (now.same_base(wanted) and PYTHON.exists()):
        step.doing("removing .venv: " + why_anew(now, wanted))
        shutil.rmtree(VENV)
        now = None
    elif now is None and VENV.exists() and not (VENV / "lib" / f"python{wanted.python}").exists():
        raise SystemExit(
            f"error: {VENV} was not made by this, and is no environment of Python {wanted.python}.\n"
            "       Move it away and run this again."
        )
    VENV.mkdir(exist_ok=True)
    write(replace(wanted, whole=False))
    if not PYTHON.exists():
        subprocess.run([base_python(), "-m", "venv", "--without-pip", str(VENV)], check=True)
    return now


def why_anew(now: State, wanted: State) -> str:
    if not now.whole:
        return "its install was cut short"
    if now.folder != wanted.folder:
        return f"it was made in {now.folder}"
    return f"it was made with Python {now.python}"


def base_python() -> str:
    """The Python below any virtual environment that runs this: .venv cannot make itself."""
    return sys._base_executable  # type: ignore[attr-defined,no-any-return]  # the only name that venv has for it, too


def get_pip(pip: Pip) -> None:
    """The pinned pip inside .venv, brought by whichever pip there is."""
    inside = [str(PYTHON), "-m", "pip"]
    if (VENV / "bin" / "pip").exists():
        command = inside
    elif outside := outer_pip():
        command = [*outside, "--python", str(PYTHON)]
    elif succeeds(base_python(), "-m", "ensurepip", "--version"):
        subprocess.run([str(PYTHON), "-m", "ensurepip"], stdout=subprocess.DEVNULL, check=True)
        command = inside
    else:
        raise SystemExit(
            f"error: {base_python()} has no pip, and there is no pip3 from {OLDEST_PIP[0]}.{OLDEST_PIP[1]} on.\n"
            "       Install it and run this again; on Debian and Ubuntu:  sudo apt install python3-pip"
        )
    pip.run(command, "install", "--constraint", str(CONSTRAINTS), "pip", doing="getting pip")


def succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def outer_pip() -> list[str] | None:
    """A pip of the system that can install into another Python's environment."""
    for command in ([base_python(), "-m", "pip"], ["pip3"], ["pip"]):
        if shutil.which(command[0]) is None:
            continue
        asked = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
        found = re.match(r"pip (\d+)\.(\d+)", asked.stdout)
        if found and (int(found[1]), int(found[2])) >= OLDEST_PIP:
            return command
    return None


def write(new: State) -> None:
    STATE.write_text(json.dumps(asdict(new)))


def torch_build() -> str | None:
    """The torch in .venv, such as 2.13.0+cpu."""
    found = list(VENV.glob("lib/python*/site-packages/torch-*.dist-info"))
    return found[0].name.removeprefix("torch-").removesuffix(".dist-info") if found else None


def torch_remark() -> str:
    build = torch_build()
    useless = build is not None and build.endswith("+cpu") and gpu_here()
    return f"torch {build}" + (", a CPU build: it cannot use the NVIDIA GPU of this machine" if useless else "")


def explained(failure: PipFailed) -> str:
    end = LOG.read_text().splitlines()[-LINES_OF_A_FAILURE:]
    free = shutil.disk_usage(VENV).free / 1e9
    return "\n".join(
        (
            f"error: {failure}; {LOG} holds all of its output, which ends with",
            *(f"       {line}" for line in end),
            f"       It needs the network and up to 8 GB of disk ({free:.1f} GB are free). Mend that and run it again.",
        )
    )


if __name__ == "__main__":
    main()
