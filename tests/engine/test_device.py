"""Devices and dtypes are chosen by name, and free memory is what the machine and its container both leave."""

from pathlib import Path

import pytest
import torch

from stretto.engine.device import choose_device, choose_dtype, describe, free_bytes, free_memory
from stretto.engine.errors import InvalidRequest

CPU = torch.device("cpu")
GIB = 1 << 30


def machine(folder: Path, *, available: int, groups: dict[str, tuple[str, int, int]]) -> tuple[Path, Path]:
    """A /proc and a cgroup tree on disk; a group is its limit, what it uses and what of that is unused file pages."""
    (folder / "proc" / "self").mkdir(parents=True)
    (folder / "proc" / "meminfo").write_text(f"MemTotal: 99999999 kB\nMemAvailable: {available // 1024} kB\n")
    (folder / "proc" / "self" / "cgroup").write_text(f"0::/{max(groups, key=len, default='')}\n")
    for name, (limit, used, idle) in groups.items():
        group = folder / "cgroup" / name
        group.mkdir(parents=True, exist_ok=True)
        (group / "memory.max").write_text(f"{limit}\n")
        (group / "memory.current").write_text(f"{used}\n")
        (group / "memory.stat").write_text(f"anon 5\ninactive_file {idle}\n")
    return folder / "proc", folder / "cgroup"


def test_auto_is_the_best_device_there_is() -> None:
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "", "mps", "cuda:99"])
def test_a_device_that_is_not_there_is_refused_by_name(name: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        choose_device(name)
    assert repr(name) in refused.value.message
    assert refused.value.field == "device"


def test_auto_computes_in_float32_on_a_cpu_and_names_choose_the_others() -> None:
    assert choose_dtype("auto", CPU) is torch.float32
    assert choose_dtype("bfloat16", CPU) is torch.bfloat16
    assert choose_dtype("float16", CPU) is torch.float16


def test_an_unknown_dtype_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequest, match="int3") as refused:
        choose_dtype("int3", CPU)
    assert refused.value.field == "dtype"


def test_free_memory_is_what_the_machine_has_where_no_group_limits_it(tmp_path: Path) -> None:
    assert free_memory(*machine(tmp_path, available=3 * GIB, groups={"": ("max", GIB, 0)})) == 3 * GIB


@pytest.mark.parametrize("name", ["", "pods/one"])  # a container sees its own group as the root
def test_free_memory_is_bounded_by_the_limit_of_the_group(tmp_path: Path, name: str) -> None:
    groups = {name: (str(2 * GIB), GIB, GIB // 4)}
    assert free_memory(*machine(tmp_path, available=8 * GIB, groups=groups)) == GIB + GIB // 4


def test_free_memory_is_bounded_by_the_groups_around_too(tmp_path: Path) -> None:
    groups = {"pods": (str(GIB), GIB // 2, 0), "pods/one": ("max", 5, 0)}
    assert free_memory(*machine(tmp_path, available=8 * GIB, groups=groups)) == GIB // 2


def test_a_group_over_its_limit_leaves_nothing(tmp_path: Path) -> None:
    assert free_memory(*machine(tmp_path, available=8 * GIB, groups={"": ("1000", 2000, 0)})) == 0


def test_this_machine_has_free_memory_and_a_description() -> None:
    assert 0 < free_bytes(CPU) < 1 << 50
    assert describe(CPU).startswith("cpu (")
