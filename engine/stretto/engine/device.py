"""Where tensors live and in which precision: device and dtype, chosen in one place."""

import os
import platform
from pathlib import Path

import torch

from stretto.engine.errors import InvalidRequest

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(name: str) -> torch.device:
    """The device that `name` ("auto", "cpu", "cuda", "cuda:1") stands for; raises InvalidRequest if there is none."""
    if name == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise _unknown(name) from error
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type != "cuda":
        raise _unknown(name)
    count = torch.cuda.device_count()
    index = device.index or 0
    if index >= count:
        raise InvalidRequest(
            f"device is {name!r}; torch {torch.__version__} sees {count} CUDA devices here. Use auto or cpu.",
            field="device",
            metadata={"device": name, "cuda_devices": str(count)},
        )
    return torch.device("cuda", index)


def _unknown(name: str) -> InvalidRequest:
    return InvalidRequest(
        f"device is {name!r}; it must be auto, cpu, cuda, or cuda:N.", field="device", metadata={"device": name}
    )


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype that `name` stands for; "auto" is float32 on a CPU and the best 16-bit kind that the GPU computes."""
    if name in DTYPES:
        return DTYPES[name]
    if name != "auto":
        raise InvalidRequest(
            f"dtype is {name!r}; it must be auto, {', '.join(DTYPES)}.", field="dtype", metadata={"dtype": name}
        )
    if device.type == "cpu":
        return torch.float32
    has_bfloat16 = torch.cuda.get_device_capability(device) >= (8, 0)  # older ones emulate it, slowly
    return torch.bfloat16 if has_bfloat16 else torch.float16


def free_bytes(device: torch.device) -> int:
    """Memory that can still be taken on the device; on a CPU no more than the container's limit leaves."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    return free_memory(Path("/proc"), Path("/sys/fs/cgroup"))


def free_memory(proc: Path, cgroups: Path) -> int:
    """What MemAvailable and the cgroups (version 2) around this process leave; without a /proc all physical memory."""
    if not (proc / "meminfo").exists():
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    lines = (line.split() for line in (proc / "meminfo").read_text().splitlines())
    available = {words[0]: int(words[1]) * 1024 for words in lines}["MemAvailable:"]
    own = next((line[3:] for line in _lines(proc / "self" / "cgroup") if line.startswith("0::")), "/")
    folder = cgroups / own.lstrip("/")
    around = [f for f in (folder, *folder.parents) if f.is_relative_to(cgroups)]
    return max(0, min([available, *(left for f in around if (left := _left(f)) is not None)]))


def _left(cgroup: Path) -> int | None:
    """What the cgroup may still take; None: it sets no limit. File pages that were not used lately are free to take."""
    limit = _lines(cgroup / "memory.max")
    used = _lines(cgroup / "memory.current")
    if not limit or not used or limit[0] == "max":
        return None
    figures = dict(line.split() for line in _lines(cgroup / "memory.stat"))
    return int(limit[0]) - int(used[0]) + int(figures.get("inactive_file", 0))


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []


def describe(device: torch.device) -> str:
    """The device in words, for the start-up screen."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"cpu ({platform.machine()}, {torch.get_num_threads()} threads)"
