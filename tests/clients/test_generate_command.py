"""Proves `stretto generate`: the answer alone on standard output, every option on the wire, prompts in and JSON out."""

import json
from pathlib import Path

import pytest
from google.protobuf import json_format

from stretto.v1 import generation_pb2


def test_generate_prints_the_answer_and_nothing_else(stretto) -> None:
    ran = stretto("generate", "one two three", "--max-tokens", "3")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "three two one\n", "")


def test_generate_reads_standard_input(stretto) -> None:
    assert stretto("generate", text="zwei ä\n").stdout == "ä zwei\n"
    assert stretto("generate", "-", text="a b").stdout == "b a\n"


def test_generate_says_when_the_text_was_cut(stretto) -> None:
    ran = stretto("generate", "a b", "--no-stream")
    assert (ran.stdout, ran.stderr) == ("b a\n", "note: the text was too long; 2 of its tokens were cut.\n")


def test_several_candidates_are_told_apart(stretto) -> None:
    assert stretto("generate", "a b", "--candidates", "2").stdout == "[1]\nb a\n[2]\nb a\n"


def test_every_option_reaches_the_server(stretto, server) -> None:
    words = (
        "--model talker --max-tokens 8 --min-tokens 1 --time-limit 2.5 --stop a --stop b --stop-token-ids 7 "
        "--stop-token-ids 8,9 --temperature 0.5 --top-k 3 --top-p 0.5 --min-p 0.25 --typical-p 0.75 --seed 7 "
        "--repetition-penalty 1.5 --presence-penalty 0.5 --frequency-penalty 0.25 --penalty-window 64 "
        "--no-repeat-ngram-size 3 --logit-bias 11=-100 --logit-bias 12=2.5,13=1 --allowed-token-ids 1,2 "
        "--banned-token-ids 3 --banned-strings never --banned-strings ever --truncate end --max-prompt-tokens 5 "
        "--response-prefix Well --candidates 2 --best-of 4 --ignore-eos --include-stop --echo --keep-special-tokens "
        "--no-parse-special-tokens --no-prefix-cache --priority -2 --queue-timeout 1.5 --json "
        "--logprobs --top-logprobs 2 --logprob-token-ids 5 --prompt-logprobs --telemetry"
    )
    ran = stretto("generate", "hi", *words.split())
    assert ran.returncode == 0, ran.stderr
    (request,) = server.requests
    request.options.ClearField("request_id")
    assert json_format.MessageToDict(request, preserving_proto_field_name=True) == {
        "model": "talker",
        "text": "hi",
        "response_prefix": "Well",
        "overflow_policy": "OVERFLOW_POLICY_TRUNCATE_END",
        "max_prompt_tokens": 5,
        "parse_special_tokens": False,
        "options": {
            "priority": -2,
            "queue_timeout": "1.500s",
            "timeout": "600s",
            "include_telemetry": True,
            "bypass_prefix_cache": True,
        },
        "config": {
            "sampling": {
                "temperature": 0.5,
                "top_k": 3,
                "top_p": 0.5,
                "min_p": 0.25,
                "typical_p": 0.75,
                "seed": "7",
                "repetition_penalty": 1.5,
                "presence_penalty": 0.5,
                "frequency_penalty": 0.25,
                "penalty_window": 64,
                "no_repeat_ngram_size": 3,
                "logit_bias": {"11": -100.0, "12": 2.5, "13": 1.0},
                "allowed_token_ids": [1, 2],
                "banned_token_ids": [3],
                "banned_strings": ["never", "ever"],
                "candidate_count": 2,
                "best_of": 4,
            },
            "stopping": {
                "max_tokens": 8,
                "min_tokens": 1,
                "time_limit": "2.500s",
                "stop_strings": ["a", "b"],
                "stop_token_ids": [7, 8, 9],
                "ignore_eos": True,
                "include_stop": True,
            },
            "output": {
                "echo": True,
                "skip_special_tokens": False,
                "include_token_ids": True,
                "include_logprobs": True,
                "top_logprobs": 2,
                "logprob_token_ids": [5],
                "include_prompt_logprobs": True,
            },
        },
    }


def test_what_was_not_said_is_not_sent(stretto, server) -> None:
    ran = stretto("generate", "hi", "--json")
    assert ran.returncode == 0, ran.stderr
    (request,) = server.requests
    request.options.ClearField("request_id")
    assert json_format.MessageToDict(request, preserving_proto_field_name=True) == {
        "text": "hi",
        "options": {"timeout": "600s"},
        "config": {
            "sampling": {"temperature": 0.0},
            "stopping": {"max_tokens": 256},
            "output": {"include_token_ids": True},
        },
    }


def test_an_answer_that_was_resumed_is_whole_and_that_is_said(stretto) -> None:
    ran = stretto("generate", "end broken some", "--max-tokens", "3")
    assert (ran.returncode, ran.stdout) == (0, "some broken end\n")
    assert ran.stderr == "note: the connection broke on the way; the answer was resumed where it stood.\n"


def test_an_error_in_the_middle_of_an_answer_begins_a_line_of_its_own(stretto) -> None:
    ran = stretto("generate", "jump over tokens")
    assert (ran.returncode, ran.stdout) == (1, "tokens \n")
    assert ran.stderr.startswith("error: the stream jumped to token ")


def test_a_refusal_prints_nothing_where_the_answer_would_be(stretto) -> None:
    assert stretto("generate", "fail:INVALID_ARGUMENT:INVALID_PARAMETER").stdout == ""


def test_prompts_of_a_file_are_answered_a_line_each_in_their_order(stretto, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("".join(f"again {number}\n" for number in range(50)))
    ran = stretto("generate", "--file", str(file), "--json")
    replies = [json_format.Parse(line, generation_pb2.GenerateResponse()) for line in ran.stdout.splitlines()]
    assert [reply.candidates[0].text for reply in replies] == [f"{number} again" for number in range(50)]
    assert ran.returncode == 0


def test_a_prompt_that_is_refused_has_its_line_and_the_others_theirs(stretto) -> None:
    ran = stretto("generate", "--json-input", "--json", text='"a b"\n"fail:INVALID_ARGUMENT:EMPTY_INPUT"\n"c\\nd"\n')
    first, second, third = map(json.loads, ran.stdout.splitlines())
    assert (first["candidates"][0]["text"], third["candidates"][0]["text"]) == ("b a", "d c")
    assert second == {"error": {"code": 3, "message": "a message with 1.7."}}
    assert "error: line 2 of standard input: a message with 1.7.\n" in ran.stderr
    assert ran.returncode == 1


@pytest.mark.parametrize("failure", ["INTERNAL:ENGINE_ERROR", "INVALID_ARGUMENT:INVALID_PARAMETER"])
def test_a_server_that_fails_or_an_option_that_is_wrong_ends_the_file(stretto, failure: str) -> None:
    ran = stretto("generate", "--json-input", "--json", text=f'"fail:{failure}"\n' * 20)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith("error: a message with 1.7.\n")


def test_json_is_the_wire_format_s(stretto) -> None:
    ran = stretto("generate", "one two", "--json")
    reply = json_format.Parse(ran.stdout, generation_pb2.GenerateResponse())
    assert reply.candidates[0].text == "two one"
    assert json.loads(ran.stdout)["candidates"][0]["index"] == 0  # zeros are there, under the names of the protos
    assert ran.stdout.count("\n") == 1
