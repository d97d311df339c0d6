"""Proves the chat, through pipes and on a terminal of its own (a pty): streaming, Ctrl-C, history, commands, Ctrl-D."""

import json
from pathlib import Path

import pytest
from google.protobuf import json_format

from stretto.cli.sampling import CHAT_OPTIONS
from stretto.v1 import common_pb2, generation_pb2

PATIENCE = 30  # seconds for anything to happen on a busy machine
PROMPT = "\x1b[?2004h"  # prompt_toolkit turns bracketed paste on whenever it starts to read a line


@pytest.fixture
def terminal(on_terminal, tmp_path: Path):
    return on_terminal("chat", variables={"XDG_STATE_HOME": str(tmp_path)})


def test_an_answer_comes_with_its_statistics(terminal) -> None:
    terminal.expect("/help for commands, Ctrl-C stops an answer, Ctrl-D leaves")
    terminal.expect(PROMPT)
    terminal.type("one two three\r")
    terminal.expect("three two one")
    shown = terminal.expect("from cache")
    assert "3 tokens \u00b7 " in shown
    assert "first token " in shown
    assert "prompt 3 tokens, 1 from cache" in shown
    terminal.expect(PROMPT)
    terminal.type("\x04")
    assert terminal.process.wait(timeout=PATIENCE) == 0


def test_ctrl_c_stops_the_answer_and_gives_the_prompt_back(terminal, server) -> None:
    terminal.expect(PROMPT)
    terminal.type("endless story\r")
    terminal.expect("story ")
    terminal.expect("endless")
    terminal.type("\x03")
    terminal.expect("stopped")
    assert server.left.get(timeout=PATIENCE)
    terminal.expect(PROMPT)
    terminal.type("still here\r")
    terminal.expect("here still")
    assert [message.content for message in server.requests[-1].chat.messages] == [
        "endless story",
        "story endless",
        "still here",
    ]


def test_ctrl_c_at_the_prompt_clears_the_line(terminal, server) -> None:
    terminal.expect(PROMPT)
    terminal.type("never sent\x03")
    terminal.expect(PROMPT)
    terminal.type("sent\r")
    terminal.expect("1 token")
    assert [request.chat.messages[0].content for request in server.requests[-1:]] == ["sent"]


def test_every_command_works_at_the_prompt(terminal, server, tmp_path: Path) -> None:
    def typed(line: str, answer: str) -> str:
        terminal.expect(PROMPT)
        terminal.type(f"{line}\r")
        return terminal.expect(answer)

    typed("/help", "//like this.")
    typed("/system be kind", "system: be kind")
    typed("/set top_k 3", "top_k 3")
    typed("/model talker", "* talker")
    typed("one two", "two one")
    typed("/retry", "two one")
    typed("/stats", "2 answers \u00b7 4 tokens")
    typed(f"/save {tmp_path / 'talk.json'}", "3 messages")
    terminal.expect(PROMPT)
    terminal.type("/quit\r")
    assert terminal.process.wait(timeout=PATIENCE) == 0
    first, second = server.requests
    assert first.chat == second.chat
    assert (first.model, first.config.sampling.top_k) == ("talker", 3)
    assert json.loads((tmp_path / "talk.json").read_text()) == [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "one two"},
        {"role": "assistant", "content": "two one"},
    ]


def test_every_setting_reaches_the_server_by_flag_and_by_command(stretto, server) -> None:
    settings = {
        "max_tokens": "9", "min_tokens": "1", "time_limit": "2.5", "stop": "!", "stop_token_ids": "7,8",
        "temperature": "0.5", "top_k": "3", "top_p": "0.5", "min_p": "0.25", "typical_p": "0.75", "seed": "7",
        "repetition_penalty": "1.5", "presence_penalty": "0.5", "frequency_penalty": "0.25", "penalty_window": "64",
        "no_repeat_ngram_size": "3", "logit_bias": "11=-100,12=2.5", "allowed_token_ids": "1,2",
        "banned_token_ids": "3,4", "banned_strings": "never", "truncate": "start", "template": "rag",
        "template_arguments": '{"thinking": false}',
    }  # fmt: skip
    assert set(settings) == set(CHAT_OPTIONS)
    flags = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", value)]
    ran = stretto("chat", *flags, text="hi\n")
    assert ran.returncode == 0, ran.stderr
    ran = stretto("chat", text="".join(f"/set {name} {value}\n" for name, value in settings.items()) + "hi\n")
    assert ran.returncode == 0, ran.stderr
    by_flag, by_command = server.requests
    for request in server.requests:
        request.options.Clear()
    assert by_flag == by_command
    assert json_format.MessageToDict(by_flag.config, preserving_proto_field_name=True) == {
        "sampling": {
            "temperature": 0.5, "top_k": 3, "top_p": 0.5, "min_p": 0.25, "typical_p": 0.75, "seed": "7",
            "repetition_penalty": 1.5, "presence_penalty": 0.5, "frequency_penalty": 0.25, "penalty_window": 64,
            "no_repeat_ngram_size": 3, "logit_bias": {"11": -100.0, "12": 2.5}, "allowed_token_ids": [1, 2],
            "banned_token_ids": [3, 4], "banned_strings": ["never"],
        },
        "stopping": {
            "max_tokens": 9, "min_tokens": 1, "time_limit": "2.500s", "stop_strings": ["!"], "stop_token_ids": [7, 8],
        },
        "output": {"include_token_ids": True},
    }  # fmt: skip
    assert (by_flag.chat.template, by_flag.overflow_policy) == ("rag", common_pb2.OVERFLOW_POLICY_TRUNCATE_START)
    assert json_format.MessageToDict(by_flag.chat.template_arguments) == {"thinking": False}


def test_the_history_is_kept_for_the_next_chat_and_for_nobody_else(terminal, on_terminal, tmp_path: Path) -> None:
    terminal.expect(PROMPT)
    terminal.type("remember me\r")
    terminal.expect("me remember")
    terminal.expect(PROMPT)
    terminal.type("/quit\r")
    assert terminal.process.wait(timeout=PATIENCE) == 0
    history = tmp_path / "stretto" / "chat_history"
    assert history.stat().st_mode & 0o077 == 0
    again = on_terminal("chat", variables={"XDG_STATE_HOME": str(tmp_path)})
    again.expect(PROMPT)
    again.type("\x1b[A\x1b[A\r")  # up twice: past /quit
    again.expect("me remember")


def test_through_a_pipe_each_line_is_a_turn(stretto, server) -> None:
    ran = stretto("chat", "--system", "be brief", "--temperature", "0", text="one two\n\n//slash it\n")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "two one\nit /slash\n"
    last = server.requests[-1]
    assert [(turn.role, turn.content) for turn in last.chat.messages] == [
        ("system", "be brief"),
        ("user", "one two"),
        ("assistant", "two one"),
        ("user", "/slash it"),
    ]
    assert (last.model, last.config.sampling.temperature) == ("talker", 0)
    assert last.config.sampling.HasField("temperature")


def test_commands_do_what_they_say(stretto, server, tmp_path: Path) -> None:
    saved = tmp_path / "talk.json"
    lines = [
        "/system be kind",
        "/set temperature 0.5",
        "/set top_k 3",
        "/set top_k default",
        "one two",
        "/retry",
        "/stats",
        "/model",
        f"/save {saved}",
        "/help",
        "/quit",
        "never read",
    ]
    ran = stretto("chat", text="\n".join(lines))
    assert (ran.returncode, ran.stdout) == (0, "two one\ntwo one\n")
    first, second = server.requests
    assert first.chat == second.chat
    assert first.config.sampling.temperature == 0.5
    assert not first.config.sampling.HasField("top_k")
    assert json.loads(saved.read_text()) == [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "one two"},
        {"role": "assistant", "content": "two one"},
    ]
    assert "2 answers \u00b7 4 tokens" in ran.stderr
    assert "* talker  generate  ready" in ran.stderr
    assert "/retry" in ran.stderr


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/sytem x", "no command /sytem"),
        ("/set temprature 1", "no setting 'temprature'"),
        ("/set temperature hot", "temperature must be a number; got 'hot'"),
        ("/set logit_bias 11", "logit_bias must be ID=X, as in 11=-100 or 11=-100,42=2.5; got '11'"),
        ("/set truncate left", "truncate must be one of error, end, start, middle; got 'left'"),
        ("/set temperature", "/set temperature needs a value"),
        ("/set max_tokens -1", ""),
        ("/retry", "there is nothing to retry yet"),
        ("/model nobody", "no model 'nobody' is loaded"),
        ("/model reader", "reader cannot generate.\n       Loaded models that can: talker"),
        ("/save", "/save needs a file name"),
        ("/save /nowhere/talk.json", "cannot write /nowhere/talk.json"),
        ("fail:INTERNAL:ENGINE_ERROR", "a message with 1.7."),
    ],
)
def test_a_mistake_is_told_and_the_conversation_goes_on(stretto, line: str, said: str) -> None:
    ran = stretto("chat", text=f"{line}\n/set max_tokens 5\nstill here\n")
    assert ran.stdout.endswith("here still\n")
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr
    assert ran.returncode == (1 if said else 0)


def test_an_answer_that_was_resumed_is_part_of_the_conversation_and_that_is_said(stretto, server) -> None:
    ran = stretto("chat", text="end broken some\nand on\n")
    assert ran.stdout == "some broken end\non and\n"
    assert ran.stderr.count("note: the connection broke on the way; the answer was resumed where it stood.\n") == 1
    assert server.requests[-1].chat.messages[1].content == "some broken end"


def test_a_question_that_failed_is_not_part_of_the_conversation(stretto, server) -> None:
    stretto("chat", text="fail:INTERNAL:ENGINE_ERROR\nstill here\n")
    assert [turn.content for turn in server.requests[-1].chat.messages] == ["still here"]


def test_retry_asks_the_question_that_failed_and_keeps_what_was_answered_before(stretto, server) -> None:
    stretto("chat", text="one\nfail:INTERNAL:ENGINE_ERROR\n/retry\nlast\n")
    asked = [[turn.content for turn in request.chat.messages] for request in server.requests]
    failing = ["one", "one", "fail:INTERNAL:ENGINE_ERROR"]
    assert asked == [["one"], failing, failing, ["one", "one", "last"]]


def test_save_overwrites_nothing(stretto, tmp_path: Path) -> None:
    saved = tmp_path / "talk.json"
    saved.write_text("mine")
    ran = stretto("chat", text=f"/save {saved}\n")
    assert f"error: {saved} is there already." in ran.stderr
    assert saved.read_text() == "mine"


def test_json_lines_out_for_lines_in(stretto) -> None:
    ran = stretto("chat", "--json", text="one two\nthree four\n")
    replies = [json_format.Parse(line, generation_pb2.GenerateResponse()) for line in ran.stdout.splitlines()]
    assert [reply.candidates[0].text for reply in replies] == ["two one", "four three"]
    assert ran.stderr == ""
