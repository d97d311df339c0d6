"""Proves the commands that compute nothing new: score, tokenize, detokenize, info."""

import json
from pathlib import Path

import pytest
from google.protobuf import json_format

from stretto.cli.tokenize import shown
from stretto.v1 import generation_pb2, server_pb2, tokenizer_pb2


def test_score_is_a_table_of_the_continuations(stretto, server) -> None:
    ran = stretto("score", "a context", " b c", "d", "--model", "talker", "--priority", "2", "--truncate", "start")
    assert (ran.returncode, ran.stderr) == (0, "")
    head, *rows = ran.stdout.splitlines()
    assert head.split("  ") == ["logprob", "per token", "perplexity", "tokens", "greedy", "continuation"]
    assert [row.split()[:5] for row in rows] == [
        ["-4.0000", "-1.0000", "2.50", "4", "no"],
        ["-1.0000", "-1.0000", "2.50", "1", "yes"],
    ]
    assert [row.endswith(end) for row, end in zip(rows, ('" b c"', '"d"'), strict=True)] == [True, True]
    (request,) = server.requests
    assert (request.model, request.options.priority, request.overflow_policy) == ("talker", 2, 3)
    assert not request.include_token_logprobs


def test_score_reads_items_and_prints_the_wire_s_objects(stretto, server) -> None:
    items = [
        {"context": "one", "continuations": [" a", " b"]},
        {"context": "fail", "continuations": ["x"]},
        {"context": "three", "continuations": ["c"]},
    ]
    ran = stretto("score", "--json", "--token-logprobs", text="".join(json.dumps(item) + "\n" for item in items))
    lines = ran.stdout.splitlines()
    results = [json_format.Parse(line, generation_pb2.ScoreResult()) for line in lines]
    assert [len(result.item.continuations) for result in results] == [2, 0, 1]
    assert json.loads(lines[1]) == {"error": {"code": 3, "message": "long."}}
    assert ran.stderr == "error: line 2 of standard input: long.\n"
    assert ran.returncode == 1
    assert all(request.include_token_logprobs for request in server.requests)


@pytest.mark.parametrize("line", ["[]", '{"context": "a"}', '{"context": "a", "continuations": "b"}', "not JSON"])
def test_score_names_the_line_that_is_no_item(stretto, line: str) -> None:
    ran = stretto("score", text=f'{{"context": "one", "continuations": [" a"]}}\n{line}\n')
    assert ran.returncode == 1
    assert ran.stderr.startswith("error: line 2 of standard input is not ")


def test_tokenize_shows_ids_and_pieces_and_detokenize_the_text(stretto) -> None:
    assert stretto("tokenize", "one three", "a").stdout == "3  'one'\n5  'three'\n\n1  'a'\n"
    assert stretto("tokenize", "--ids", text="one three\na\n").stdout == "3 5\n1\n"
    assert stretto("tokenize", "--count", text="one three\na\n").stdout == "2\n1\n"
    assert stretto("detokenize", "3", "5").stdout == "xxx xxxxx\n"
    assert stretto("detokenize", text="3 5\n\n1\n").stdout == "xxx xxxxx\n\nx\n"
    assert stretto("detokenize", "3", "--json").stdout == '{"text": "xxx"}\n'


def test_a_piece_that_is_half_a_character_shows_its_bytes() -> None:
    assert [shown(piece) for piece in (b" a", "\u00e9".encode(), b"\xc3", b"\\x")] == [
        "' a'",
        "'\u00e9'",
        "'\\xc3'",
        "'\\\\x'",
    ]


def test_tokenize_says_what_it_was_asked_for(stretto, server) -> None:
    words = ("--model", "talker", "--no-add-special-tokens", "--no-parse-special-tokens", "--offsets", "--json")
    ran = stretto("tokenize", "one", *words)
    assert json_format.Parse(ran.stdout, tokenizer_pb2.Tokenization()).token_ids == [3]
    stretto("detokenize", "3", "--model", "talker", "--keep-special-tokens")
    tokenize, detokenize = server.requests
    assert json_format.MessageToDict(tokenize, preserving_proto_field_name=True) == {
        "model": "talker",
        "inputs": [{"text": "one"}],
        "add_special_tokens": False,
        "parse_special_tokens": False,
        "include_offsets": True,
        "include_pieces": True,
    }
    assert (detokenize.model, detokenize.skip_special_tokens) == ("talker", False)


def test_tokenize_counts_a_chat_that_was_saved(stretto, tmp_path: Path) -> None:
    talk = tmp_path / "talk.json"
    stretto("chat", text=f"one two three\n/save {talk}\n")
    assert stretto("tokenize", "--chat", str(talk), "--count").stdout == "3\n"
    talk.write_text('{"role": "user"}')
    ran = stretto("tokenize", "--chat", str(talk), "--count")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith(f"error: {talk} is not a list of messages.")


def test_a_text_that_is_refused_does_not_end_the_others(stretto) -> None:
    ran = stretto("tokenize", "--count", "one two", "\udcff", "one")
    assert (ran.returncode, ran.stdout) == (1, "2\n1\n")
    assert ran.stderr.startswith("error: text 2: inputs[0].text must be text")


def test_ids_that_are_none_are_told_by_their_line(stretto) -> None:
    ran = stretto("detokenize", text="3\n-1\n5\n")
    assert (ran.returncode, ran.stdout) == (1, "xxx\nxxxxx\n")
    assert ran.stderr.startswith("error: line 2 of standard input: inputs[0]")
    ran = stretto("detokenize", text="3\nthree\n")
    assert ran.returncode == 1
    assert ran.stderr == ("error: line 2 of standard input must be token ids, separated by spaces; got 'three'.\n")


def test_info_shows_what_the_server_is(stretto) -> None:
    ran = stretto("info")
    assert (ran.returncode, ran.stderr) == (0, "")
    facts = dict(line.split("  ", 1) for line in ran.stdout.splitlines())
    assert {name: value.strip() for name, value in facts.items()} == {
        "version": "1.2.3 (v1)",
        "up for": "00:01:30",
        "device": "cpu, 2 threads, kernels portable",
        "one request": "67 MB, 2,048 texts",
        "one reply": "67 MB",
        "may wait": "7 requests",
        "one step": "8 tokens",
    }
    info = json_format.Parse(stretto("info", "--json").stdout, server_pb2.GetServerInfoResponse())
    assert (info.version, info.max_inputs_per_request) == ("1.2.3", 2048)


@pytest.mark.parametrize(("device", "threads"), [("cpu (2 threads)", 2), ("cpu (2 threads)", 0), ("cuda:0", 0)])
def test_info_counts_threads_once_and_not_before_their_number_is_known(
    stretto, server, device: str, threads: int
) -> None:
    server.limits = server_pb2.GetServerInfoResponse(device=device, cpu_threads=threads, kernels="torch")
    assert f"\ndevice         {device}, kernels torch\n" in stretto("info").stdout
