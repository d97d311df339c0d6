"""Proves that a version follows the contents of the files that make a checkpoint, and nothing else."""

import hashlib
import json
import shutil
from pathlib import Path

from stretto.engine.checkpoint.digest import version_of
from stretto.engine.checkpoint.headers import open_checkpoint


def test_a_version_is_the_digest_of_sorted_names_and_digests(bert: Path) -> None:
    names = ["config.json", "model.safetensors"]
    listed = [[name, hashlib.sha256((bert / name).read_bytes()).hexdigest()] for name in names]
    expected = hashlib.sha256(json.dumps(listed).encode()).hexdigest()
    assert version_of(open_checkpoint(bert)) == f"sha256:{expected}"


def test_a_copy_elsewhere_is_the_same_version(bert: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(bert, tmp_path / "copy" / "other")
    (copy / "README.md").write_text("not part of it")
    assert version_of(open_checkpoint(copy)) == version_of(open_checkpoint(bert))


def test_one_byte_in_any_file_makes_another_version(bert: Path) -> None:
    (bert / "tokenizer.json").write_text("{}")
    seen = {version_of(open_checkpoint(bert))}
    for name, other in {"config.json": b"\n", "tokenizer.json": b"\n", "model.safetensors": b"\x55"}.items():
        data = (bert / name).read_bytes()
        (bert / name).write_bytes(data[:-1] + other if name.endswith(".safetensors") else data + other)
        seen.add(version_of(open_checkpoint(bert)))
    assert len(seen) == 4


def test_a_gguf_file_is_the_same_version_whatever_it_is_called(smollm2_gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "renamed.gguf").symlink_to(smollm2_gguf)
    contents = hashlib.sha256(smollm2_gguf.read_bytes()).hexdigest()
    assert version_of(open_checkpoint(tmp_path / "renamed.gguf")) == f"sha256:{contents}"
