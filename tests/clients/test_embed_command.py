"""Proves `stretto embed`: vectors in the order of the texts, as lines, as JSON, as a table of cosines, as a file."""

import json
import math
import re
from pathlib import Path

import numpy
import pytest
from google.protobuf import json_format

from stretto.v1 import embedding_pb2


def test_similarity_is_the_cosine_of_every_pair(stretto) -> None:
    ran = stretto("embed", "A man eats food.", "A person\nis eating a meal.", "I", "--similarity")
    head, *rows = ran.stdout.splitlines()
    assert head.split() == ["1", "2", "3"]
    assert [row[:10] for row in rows] == ["1  A man \u2026", "2  A pers\u2026", "3  I      "]
    vectors = [(16, 4, 1), (27, 6, 1), (1, 1, 1)]
    for row, first in zip(rows, vectors, strict=True):
        cosines = [float(numpy.dot(first, other)) / (math.hypot(*first) * math.hypot(*other)) for other in vectors]
        assert row.split()[-3:] == [f"{cosine:.2f}" for cosine in cosines]


def test_similarity_is_json_too(stretto) -> None:
    ran = stretto("embed", "A man", "", "two words", "--similarity", "--json")
    rows = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [(row["index"], row["text"]) for row in rows] == [(0, "A man"), (1, ""), (2, "two words")]
    vectors = numpy.array([(5, 2, 1), (0, 0, 1), (9, 2, 1)], dtype=float)
    unit = vectors / numpy.sqrt((vectors**2).sum(1, keepdims=True))
    numpy.testing.assert_allclose([row["cosines"] for row in rows], unit @ unit.T, atol=1e-12)


def test_every_option_reaches_the_server(stretto, server) -> None:
    words = "--model reader --pooling none --no-normalize --dimensions 2 --layer -2 --encoding int8 --priority 3"
    words += " --truncate chunk --max-chunk-tokens 64 --overlap-tokens 8 --max-chunks 9 --aggregation max"
    ran = stretto("embed", "a", "--json", *words.split(), "--prompt-name", "query", "--queue-timeout", "1.5")
    assert ran.returncode == 0, ran.stderr
    asked = server.requests[0].config
    assert json_format.MessageToDict(asked.config, preserving_proto_field_name=True) == {
        "pooling": "POOLING_TYPE_NONE",
        "normalize": False,
        "dimensions": 2,
        "layer": -2,
        "encoding": "EMBEDDING_ENCODING_INT8",
        "prompt_name": "query",
        "overflow_policy": "OVERFLOW_POLICY_CHUNK",
        "chunking": {
            "max_chunk_tokens": 64,
            "overlap_tokens": 8,
            "max_chunks": 9,
            "aggregation": "CHUNK_AGGREGATION_MAX",
        },
    }
    assert (asked.model, asked.options.priority, asked.options.queue_timeout.ToMilliseconds()) == ("reader", 3, 1500)


def test_lines_of_json_are_texts_whatever_they_hold(stretto, tmp_path: Path) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text('"one\\ntwo"\n{"text": "three"}\n')
    ran = stretto("embed", "--file", str(file), "--json-input")
    assert [json.loads(line) for line in ran.stdout.splitlines()] == [[7, 2, 1], [5, 1, 1]]


@pytest.mark.parametrize(
    ("line", "said"), [("{", "is not JSON"), ("3", "must be"), ('{"text": "a", "label": 1}', "must be a JSON string")]
)
def test_a_line_that_is_no_text_ends_the_input_after_those_before_it(stretto, line: str, said: str) -> None:
    ran = stretto("embed", "--json-input", text=f'"good"\n{line}\n"late"\n')
    assert (ran.returncode, ran.stdout) == (1, "[4.0, 1.0, 1.0]\n")
    assert ran.stderr.startswith(f"error: line 2 of standard input {said}")


def test_lines_of_a_pipe_become_vectors_in_order(stretto) -> None:
    texts = ["x" * length for length in range(1, 301)]  # five requests, some at once
    ran = stretto("embed", text="\n".join(texts) + "\n")
    assert [json.loads(line) for line in ran.stdout.splitlines()] == [[len(text), 1, 1] for text in texts]
    ran = stretto("embed", "--json", text="\n".join(texts))
    results = [json_format.Parse(line, embedding_pb2.EmbedResult()) for line in ran.stdout.splitlines()]
    assert [result.embedding.vectors[0].values[0] for result in results] == [len(text) for text in texts]


def test_a_text_that_fails_is_named_by_its_line_and_the_exit_code_is_1(stretto, tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("good\nfail here\nfine too\n")
    ran = stretto("embed", "--file", str(file))
    assert ran.returncode == 1
    assert [json.loads(line) for line in ran.stdout.splitlines()] == [[4, 1, 1], None, [8, 2, 1]]
    (told,) = ran.stderr.splitlines()
    assert told.startswith(f"error: line 2 of {file}: ")
    assert told.endswith("'fail here' is too long.")


def test_vectors_are_written_whole_and_without_a_bar(stretto, tmp_path: Path) -> None:
    file, out = tmp_path / "texts.txt", tmp_path / "vectors.npy"
    file.write_text("\n".join("y" * length for length in range(1, 101)))
    ran = stretto("embed", "--file", str(file), "--out", str(out))
    assert (ran.returncode, ran.stdout) == (0, "")
    assert ran.stderr == f"{out}: 100 vectors of 3 dimensions, float32\n"
    numpy.testing.assert_array_equal(numpy.load(out, allow_pickle=False)[:, 0], numpy.arange(1, 101))
    assert sorted(tmp_path.iterdir()) == [file, out]


def test_an_older_file_is_replaced_and_that_is_said(stretto, tmp_path: Path) -> None:
    out = tmp_path / "vectors.npy"
    out.write_bytes(b"older")
    ran = stretto("embed", "good", "--out", str(out))
    assert ran.returncode == 0
    assert ran.stderr == f"{out}: 1 vectors of 3 dimensions, float32, in the place of an older file\n"
    numpy.testing.assert_array_equal(numpy.load(out, allow_pickle=False), [[4, 1, 1]])


def test_vectors_with_a_failure_among_them_leave_what_was_there(stretto, tmp_path: Path) -> None:
    out = tmp_path / "vectors.npy"
    out.write_bytes(b"older")
    ran = stretto("embed", "good", "fail", "--out", str(out))
    assert ran.returncode == 1
    assert "1 of 2 texts have no vector" in ran.stderr
    assert out.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [out]


def test_bytes_that_are_no_text_are_refused_by_their_line(server, tmp_path: Path, stretto) -> None:
    file = tmp_path / "texts.txt"
    file.write_bytes(b"good\nbad \xff\n")
    ran = stretto("embed", "--file", str(file))
    assert ran.returncode == 1
    assert ran.stderr.startswith(f"error: line 2 of {file} is not UTF-8: byte 4 is 0xff.")


def test_a_terminal_shows_how_fast_texts_go_and_a_pipe_does_not(on_terminal, tmp_path: Path) -> None:
    file, out = tmp_path / "texts.txt", tmp_path / "vectors.npy"
    file.write_text("some words\n" * 500)
    terminal = on_terminal("embed", "--file", str(file), "--out", str(out))
    shown = terminal.expect("500 vectors of 3 dimensions")
    assert re.search(r"500/500\S* [\d,]+ texts/s \S*\d:\d\d:\d\d", shown), shown
    assert numpy.load(out, allow_pickle=False).shape == (500, 3)
