"""Proves that our GGUF reader reads what the `gguf` library does, and refuses everything else quickly and by name."""

import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType, GGUFReader

from stretto.engine.checkpoint.gguf import TYPES, read_gguf
from stretto.engine.checkpoint.headers import open_checkpoint
from stretto.engine.checkpoint.tensor_info import LOADABLE
from stretto.engine.checkpoint.weights import read_tensor
from stretto.engine.errors import CheckpointError

Write = Callable[..., Path]
Walk = Callable[[bytes, int, int], Iterator[tuple[str, bytes]]]
SECONDS = 1.0


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def pair(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def tensor(name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def gguf(pairs: list[bytes], tensors: list[bytes], data: bytes = b"", version: int = 3) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(pairs)) + b"".join(pairs) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + data


def refusal(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    started = time.process_time()
    with pytest.raises(CheckpointError) as caught:
        read_gguf(path, path.name)
    assert time.process_time() - started < SECONDS
    return caught.value.message


def check_like_the_library(path: Path) -> None:
    ours, theirs = read_gguf(path, path.name), GGUFReader(path)
    fields = {key: field.contents() for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
    assert dict(ours.metadata) == fields
    assert {t.name: (t.dtype, t.shape, t.offset, t.num_bytes) for t in ours.tensors.values()} == {
        t.name: (t.tensor_type.name, tuple(map(int, t.shape))[::-1], int(t.data_offset), int(t.n_bytes))
        for t in theirs.tensors
    }


@pytest.mark.parametrize("kind", LOADABLE)
def test_a_small_file_is_read_as_the_gguf_library_reads_it(write_gguf: Write, kind: str) -> None:
    check_like_the_library(write_gguf(kind))


def test_a_real_file_is_read_as_the_gguf_library_reads_it(smollm2_gguf: Path) -> None:
    check_like_the_library(smollm2_gguf)


def test_a_real_header_with_its_tokenizer_is_read_in_a_moment(smollm2_gguf: Path) -> None:
    times = []
    for _ in range(3):
        started = time.process_time()
        read_gguf(smollm2_gguf, "model")
        times.append(time.process_time() - started)
    assert min(times) < 0.15


def test_version_2_is_read_like_version_3(tmp_path: Path) -> None:
    path = tmp_path / "two.gguf"
    pairs, tensors = [pair("a", 4, struct.pack("<I", 7))], [tensor("t", (4,))]
    path.write_bytes(gguf(pairs, tensors, bytes(16), version=2))
    two = read_gguf(path, path.name)
    path.write_bytes(gguf(pairs, tensors, bytes(16), version=3))
    assert two == read_gguf(path, path.name)
    assert two.metadata == {"a": 7}


def test_a_file_larger_than_the_first_read_is_read_on(tmp_path: Path) -> None:
    path = tmp_path / "long.gguf"
    words = [f"{i:050}" for i in range(100_000)]
    array = struct.pack("<IQ", 8, len(words)) + b"".join(map(text, words))
    path.write_bytes(gguf([pair("words", 9, array), pair("after", 8, text("end"))], []))
    assert read_gguf(path, path.name).metadata == {"words": words, "after": "end"}


def test_our_names_of_types_are_ggmls() -> None:
    assert {kind.value: kind.name for kind in GGMLQuantizationType if kind.value in TYPES} == {
        value: name for value, name in TYPES.items() if value in set(GGMLQuantizationType)
    }


def test_an_array_of_2_to_the_63_in_49_bytes_is_refused_at_once(tmp_path: Path) -> None:
    data = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<IIQ", 9, 4, 1 << 63)
    assert len(data) == 49
    path = tmp_path / "bomb.gguf"
    path.write_bytes(data)
    started = time.process_time()
    with pytest.raises(CheckpointError, match="is an array of 9,223,372,036,854,775,808"):
        read_gguf(path, path.name)
    assert time.process_time() - started < 0.05


@pytest.mark.parametrize(
    ("said", "data"),
    [
        ("it has 3 bytes", b"GGU"),
        ("does not start with GGUF", b"GGML" + bytes(40)),
        ("version 1; stretto reads 2 and 3", gguf([], [], version=1)),
        ("a big-endian file?", b"GGUF" + struct.pack(">IQQ", 3, 0, 0) + bytes(32)),
        ("72,057,594,037,927,936 tensors", b"GGUF" + struct.pack("<IQQ", 3, 1 << 56, 0) + bytes(32)),
        ("70,000 key-values", b"GGUF" + struct.pack("<IQQ", 3, 0, 70_000) + bytes(1 << 20)),
        ("the key 'a' is there twice", gguf([pair("a", 0, b"1"), pair("a", 0, b"1")], [])),
        ("unknown type 13", gguf([pair("a", 13, bytes(8))], [])),
        ("an array of type 9", gguf([pair("a", 9, struct.pack("<IQ", 9, 1) + bytes(16))], [])),
        ("a key of 281,474,976,710,656 bytes", b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 48) + bytes(32)),
        ("a string of 1,099,511,627,776 bytes", gguf([pair("a", 8, struct.pack("<Q", 1 << 40))], [])),
        (
            "a string of 1,099,511,627,776 bytes",
            gguf([pair("a", 9, struct.pack("<IQQ", 8, 1, 1 << 40) + bytes(64))], []),
        ),
        ("that is not UTF-8", gguf([pair("a", 8, struct.pack("<Q", 1) + b"\xff")], [])),
        ("array that is not UTF-8", gguf([pair("a", 9, struct.pack("<IQQ", 8, 1, 1) + b"\xff")], [])),
        ("a bool that is neither", gguf([pair("a", 7, b"\x02")], [])),
        ("general.alignment is 33", gguf([pair("general.alignment", 4, struct.pack("<I", 33))], [])),
        ("general.alignment is 2097152", gguf([pair("general.alignment", 4, struct.pack("<I", 1 << 21))], [])),
        ("general.alignment is x", gguf([pair("general.alignment", 8, text("x"))], [])),
        ("the tensor 't' has 0 dimensions", gguf([], [tensor("t", ())], bytes(64))),
        ("the tensor 't' has 5 dimensions", gguf([], [tensor("t", (1, 1, 1, 1, 1))], bytes(64))),
        ("of shape (0,)", gguf([], [tensor("t", (0,))], bytes(64))),
        ("cannot be in a file of", gguf([], [tensor("t", (1 << 32, 1 << 32))], bytes(64))),
        ("at offset 7 cannot be", gguf([], [tensor("t", (4,), offset=7)], bytes(64))),
        ("cut short", gguf([], [tensor("t", (8,), offset=32)], bytes(32))),
        ("the tensor 't' is there twice", gguf([], [tensor("t", (8,)), tensor("t", (8,), offset=32)], bytes(64))),
        ("the tensor 'b' overlaps", gguf([], [tensor("a", (16,)), tensor("b", (8,), offset=32)], bytes(64))),
        ("rows of 16 values; Q4_1 holds them in blocks of 32", gguf([], [tensor("t", (16,), 3)], bytes(64))),
        ("the tensor 't' is Q4_K, which stretto does not read", gguf([], [tensor("t", (256,), 12)], bytes(256))),
        ("the tensor 't' is type 99, which", gguf([], [tensor("t", (256,), 99)], bytes(256))),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_file_is_refused_with_what_is_wrong(tmp_path: Path, said: str, data: bytes) -> None:
    assert said in refusal(tmp_path / "wrong.gguf", data)


def test_any_damage_is_refused_in_time_or_read(write_gguf: Write, tmp_path: Path, damaged: Walk) -> None:
    whole = write_gguf("Q4_1").read_bytes()
    header = min(t.offset for t in read_gguf(tmp_path / "tiny.gguf", "tiny").tensors.values())
    path = tmp_path / "damaged.gguf"
    refused = 0
    for label, data in damaged(whole, 500, header):
        path.write_bytes(data)
        started = time.process_time()
        try:
            for info in open_checkpoint(path).tensors.values():
                read_tensor(info)
        except CheckpointError:
            refused += 1
        assert time.process_time() - started < SECONDS, label
    assert refused > 250  # the walk does damage


def test_a_file_cut_anywhere_is_refused(write_gguf: Write, tmp_path: Path) -> None:
    whole = write_gguf("F16").read_bytes()
    path = tmp_path / "cut.gguf"
    for length in range(0, len(whole), 97):
        refusal(path, whole[:length])
