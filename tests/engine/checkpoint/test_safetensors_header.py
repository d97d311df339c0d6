"""Proves that our safetensors reader agrees with the safetensors library, and refuses what is wrong, quickly."""

import json
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from transformers import AutoModel, AutoModelForCausalLM

from stretto.engine.checkpoint.headers import open_checkpoint
from stretto.engine.checkpoint.safetensors_header import read_index, read_safetensors
from stretto.engine.checkpoint.weights import read_tensor
from stretto.engine.errors import CheckpointError

Walk = Callable[[bytes, int, int], Iterator[tuple[str, bytes]]]
GOOD: dict[str, Any] = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def file(header: Any, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def test_a_real_file_is_read_as_the_library_reads_it(minilm: Path) -> None:
    ours = read_safetensors(minilm / "model.safetensors", "model")
    with safe_open(minilm / "model.safetensors", "pt") as theirs:
        assert set(ours) == set(theirs.keys())
        for name, info in ours.items():
            part = theirs.get_slice(name)
            assert (list(info.shape), info.dtype) == (part.get_shape(), part.get_dtype())
            if info.dtype == "F32":
                assert read_tensor(info).equal(theirs.get_tensor(name))


@pytest.mark.parametrize(
    ("said", "data"),
    [
        ("has 0 bytes", b""),
        ("has 5 bytes", b"12345"),
        ("its header has 18,446,744,073,709,551,615 bytes", b"\xff" * 64),
        ("not UTF-8", file(b"\xff\xff", b"")),
        ("is not JSON", file(b"{nothing", b"")),
        ("is not JSON", file(b"[" * 100_000, b"")),
        ("'t' is there twice", file(b'{"t": 1, "t": 2}', b"")),
        ("is a list", file([], b"")),
        ("should be described by", file({"t": {"dtype": "F32"}}, b"")),
        ("has dtype 'F31'", file({"t": GOOD | {"dtype": "F31"}}, bytes(8))),
        ("has shape [-2]", file({"t": GOOD | {"shape": [-2]}}, bytes(8))),
        ("has shape [2.0]", file({"t": GOOD | {"shape": [2.0]}}, bytes(8))),
        ("has shape [True]", file({"t": GOOD | {"shape": [True]}}, bytes(8))),
        ("has shape [1,", file({"t": GOOD | {"shape": [1] * 9}}, bytes(8))),
        ("has data_offsets [0]", file({"t": GOOD | {"data_offsets": [0]}}, bytes(8))),
        ("is said to be at [8, 0)", file({"t": GOOD | {"data_offsets": [8, 0]}}, bytes(8))),
        ("is said to be at [0, 8) of 4 bytes", file({"t": GOOD}, bytes(4))),
        ("of shape [3] in F32 has 12 bytes, not 8", file({"t": GOOD | {"shape": [3]}}, bytes(8))),
        ("'u' overlaps", file({"t": GOOD, "u": GOOD}, bytes(8))),
        ("'t' leaves a hole", file({"t": GOOD | {"data_offsets": [4, 12]}}, bytes(12))),
        ("4 bytes after its last tensor", file({"t": GOOD}, bytes(12))),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_file_is_refused_with_what_is_wrong(tmp_path: Path, said: str, data: bytes) -> None:
    path = tmp_path / "wrong.safetensors"
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        read_safetensors(path, "wrong")
    assert said in caught.value.message


def test_any_damage_is_refused_in_time_or_read(bert: Path, damaged: Walk) -> None:
    path = bert / "model.safetensors"
    whole = path.read_bytes()
    refused = 0
    for label, data in damaged(whole, 400, 8 + struct.unpack("<Q", whole[:8])[0]):
        path.write_bytes(data)
        started = time.process_time()
        try:
            for info in open_checkpoint(bert).tensors.values():
                read_tensor(info)
        except CheckpointError:
            refused += 1
        assert time.process_time() - started < 1, label
    assert refused > 200


def test_a_checkpoint_in_several_files_is_the_same_as_in_one(llama: Path, tmp_path: Path) -> None:
    many = tmp_path / "many"
    AutoModelForCausalLM.from_pretrained(llama).save_pretrained(many, max_shard_size="20KB")
    assert len(list(many.glob("*.safetensors"))) > 2
    one, cut = open_checkpoint(llama), open_checkpoint(many)
    assert one.tensors.keys() == cut.tensors.keys()
    for name, info in one.tensors.items():
        assert read_tensor(info).equal(read_tensor(cut.tensors[name]))
    assert {path.name for path in many.iterdir()} == {path.name for path in cut.files}


def damage_index(folder: Path, change: Callable[[dict[str, str]], object]) -> str:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))
    with pytest.raises(CheckpointError) as caught:
        read_index(folder, path, "the index")
    return caught.value.message


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("../model.safetensors", "shards are .safetensors files beside their index"),
        ("/etc/passwd.safetensors", "shards are .safetensors files beside their index"),
        ("config.json", "shards are .safetensors files beside their index"),
        ("gone.safetensors", "there is no such file"),
    ],
)
def test_an_index_names_files_beside_it_only(bert: Path, tmp_path: Path, name: str, said: str) -> None:
    many = tmp_path / "many"
    AutoModel.from_pretrained(bert).save_pretrained(many, max_shard_size="20KB")
    assert said in damage_index(many, lambda index: index.update({min(index): name}))


def test_an_index_and_its_files_must_agree(bert: Path, tmp_path: Path) -> None:
    many = tmp_path / "many"
    AutoModel.from_pretrained(bert).save_pretrained(many, max_shard_size="20KB")
    assert "puts nowhere" in damage_index(many, lambda index: index.pop(min(index)))
    AutoModel.from_pretrained(bert).save_pretrained(many, max_shard_size="20KB")
    first = min(path.name for path in many.glob("*.safetensors"))
    assert "does not hold it" in damage_index(many, lambda index: index.update(extra=first))
