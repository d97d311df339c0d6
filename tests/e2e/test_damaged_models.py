"""`stretto serve` with a good model and a damaged one: it says which and why, and nothing is left running."""

import os
import shutil
import subprocess
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

SERVE = (str(Path(sysconfig.get_path("scripts")) / "stretto"), "serve")
ANY_PORT = ("--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0")


def cut(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 1_000_000)


def add_a_tensor(folder: Path) -> None:
    save_file(load_file(folder / "model.safetensors") | {"extra": torch.ones(3)}, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("damage", "cause"),
    [(cut, "bad/model.safetensors: tensor"), (add_a_tensor, "tensors are not used by a BertModel: extra [3]")],
    ids=["in its header", "in its weights"],
)
def test_a_damaged_model_ends_the_start_with_its_cause_in_one_line(
    minilm: Path, tmp_path: Path, damage: Callable[[Path], None], cause: str
) -> None:
    bad = shutil.copytree(minilm, tmp_path / "bad")
    damage(bad)
    begun = time.monotonic()
    done = subprocess.run(
        [*SERVE, f"good={minilm}", str(bad), *ANY_PORT], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert time.monotonic() - begun < 30
    assert done.stdout == ""
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert cause in line
    assert "Traceback" not in done.stderr
