"""Proves the chat, through pipes and on a terminal of its own (a pty): streaming, Ctrl-C, history, commands, Ctrl-D."""

import json
from pathlib import Path

import pytest
from google.protobuf import json_format

from stretto.v1 import generation_pb2

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
        ("/set temperature hot", "temperature must be a number or 'default'; got 'hot'"),
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


def test_a_question_that_failed_is_not_part_of_the_conversation(stretto, server) -> None:
    stretto("chat", text="fail:INTERNAL:ENGINE_ERROR\nstill here\n")
    assert [turn.content for turn in server.requests[-1].chat.messages] == ["still here"]


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
