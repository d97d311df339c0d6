"""An answer is its tokens' text, cut where it should stop, with nothing counted or sent beyond."""

from pathlib import Path

import pytest

from stretto.engine.checkpoint.headers import open_checkpoint
from stretto.engine.errors import InvalidRequest
from stretto.engine.messages import Token
from stretto.engine.requests import FinishReason, GenerateCall, Options, Output, Stopping, TokenPrompt
from stretto.engine.results import Delta
from stretto.engine.sampling import Sampling
from stretto.engine.text.answer import Answer, AnswerSpec
from stretto.engine.text.tokenizer import Tokenizer, load_tokenizer

COUNT = [216, 38, 28, 216, 39, 28, 216, 40, 28, 216, 41, 28]  # " 6, 7, 8, 9,"


@pytest.fixture(scope="module")
def tokenizer(smollm2_gguf: Path) -> Tokenizer:
    return load_tokenizer(open_checkpoint(smollm2_gguf))


def answer(tokenizer: Tokenizer, stopping: Stopping, output: Output | None = None, *, bound: bool = False) -> Answer:
    call = GenerateCall(
        model="m",
        prompt=TokenPrompt(ids=(33, 28)),
        sampling=Sampling(),
        stopping=stopping,
        output=output or Output(),
        options=Options(request_id="r", received=0.0),
    )
    return Answer(spec_of(call, tokenizer, bound=bound), 0)


def spec_of(call: GenerateCall, tokenizer: Tokenizer, *, bound: bool = False) -> AnswerSpec:
    most = call.stopping.max_tokens or 1000
    return AnswerSpec(
        call=call,
        tokenizer=tokenizer,
        prompt=[33, 28],
        stop_ids=frozenset(call.stopping.token_ids),
        max_tokens=most,
        context_bound=bound,
    )


def tokens(ids: list[int], finish: str | None = None) -> list[Token]:
    last = len(ids) - 1
    return [
        Token(id=1, candidate=0, token=token, logprob=-0.5, finish=finish if i == last else None)  # type: ignore[arg-type]
        for i, token in enumerate(ids)
    ]


def read(answer: Answer, events: list[Token], at_once: int) -> list[Delta]:
    return [answer.push(events[i : i + at_once]) for i in range(0, len(events), at_once) if answer.finish is None]


@pytest.mark.parametrize("at_once", [1, 3, 100])
@pytest.mark.parametrize(
    ("stopping", "text", "count", "finish"),
    [
        (Stopping(), " 6, 7, 8, 9,", 12, FinishReason.MAX_TOKENS),
        (Stopping(strings=(", 9",)), " 6, 7, 8", 11, FinishReason.STOP_STRING),
        (Stopping(strings=(", 9",), include_stop=True), " 6, 7, 8, 9", 11, FinishReason.STOP_STRING),
        (Stopping(strings=(" 6",)), "", 2, FinishReason.STOP_STRING),
        (Stopping(strings=("9, 10",)), " 6, 7, 8, 9,", 12, FinishReason.MAX_TOKENS),
        (Stopping(strings=(", 7", ", 9"), min_tokens=6), " 6, 7, 8", 11, FinishReason.STOP_STRING),
        (Stopping(strings=(", 8", ",")), " 6", 3, FinishReason.STOP_STRING),
    ],
)
def test_stop_strings_cut_the_text_and_the_count_however_the_tokens_come(
    tokenizer: Tokenizer, stopping: Stopping, text: str, count: int, finish: FinishReason, at_once: int
) -> None:
    reading = answer(tokenizer, stopping)
    deltas = read(reading, tokens(COUNT, "length"), at_once)
    assert "".join(delta.text for delta in deltas) == text
    assert (reading.num_tokens, reading.finish) == (count, finish)
    assert [token for delta in deltas for token in delta.token_ids] == COUNT[:count]
    assert deltas[-1].cumulative_logprob == -0.5 * count


@pytest.mark.parametrize(
    ("stopping", "token", "text", "finish"),
    [
        (Stopping(), 2, " 6", FinishReason.EOS_TOKEN),
        (Stopping(token_ids=(28,)), 28, " 6", FinishReason.STOP_TOKEN),
        (Stopping(token_ids=(28,), include_stop=True), 28, " 6,", FinishReason.STOP_TOKEN),
    ],
)
def test_the_token_that_ends_an_answer_is_counted_and_its_text_is_shown_only_on_request(
    tokenizer: Tokenizer, stopping: Stopping, token: int, text: str, finish: FinishReason
) -> None:
    reading = answer(tokenizer, stopping)
    (delta,) = read(reading, tokens([216, 38, token], "stop"), 100)
    assert (delta.text, delta.finish, delta.stop_token_id, len(delta.token_ids)) == (text, finish, token, 3)


def test_a_full_context_and_a_time_limit_are_told_from_a_spent_max_tokens(tokenizer: Tokenizer) -> None:
    full = answer(tokenizer, Stopping(), bound=True)
    assert read(full, tokens([216], "length"), 1)[0].finish is FinishReason.CONTEXT_LENGTH
    late = answer(tokenizer, Stopping())
    events = [*tokens([216]), Token(id=1, candidate=0, token=-1, finish="time")]
    assert read(late, events, 100)[0].finish is FinishReason.TIME_LIMIT
    assert late.num_tokens == 1


def test_echo_puts_the_prompt_in_front_once_and_does_not_count_it(tokenizer: Tokenizer) -> None:
    reading = answer(tokenizer, Stopping(), Output(echo=True))
    deltas = read(reading, tokens([216, 38], "length"), 1)
    assert [(delta.text, delta.token_ids) for delta in deltas] == [("1, ", (33, 28, 216)), ("6", (38,))]
    assert [(delta.first_token_index, delta.num_echoed) for delta in deltas] == [(0, 2), (3, 0)]
    assert reading.num_tokens == 2


def test_a_character_of_several_tokens_is_sent_whole_and_its_ids_as_they_come(tokenizer: Tokenizer) -> None:
    llama = tokenizer.encode(["Hi \N{LLAMA}"], add_special_tokens=False)[0]
    deltas = read(answer(tokenizer, Stopping()), tokens(llama, "length"), 1)
    assert "".join(delta.text for delta in deltas) == "Hi \N{LLAMA}"
    assert not any("�" in delta.text for delta in deltas)
    assert [delta.first_token_index for delta in deltas] == list(range(len(llama)))


EMOJI = [216, *(15107, 116, 243), 10907, 216, *(7906, 240, 178), *(239, 230, 816), 28]  # characters in pieces


@pytest.mark.parametrize("echo", [False, True])
@pytest.mark.parametrize("strings", [(), (", 9",), ("ok",), ("zzz",)])
def test_an_answer_that_is_resumed_anywhere_sends_what_was_not_sent_and_no_more(
    tokenizer: Tokenizer, strings: tuple[str, ...], echo: bool
) -> None:
    for ids in (COUNT, EMOJI):
        stopping, output = Stopping(strings=strings), Output(echo=echo)
        whole = read(answer(tokenizer, stopping, output), tokens(ids, "length"), 1)
        for cut in range(1, len(whole)):
            seen = whole[:cut]
            had = tuple(token for delta in seen for token in delta.token_ids[delta.num_echoed :])
            resumed = Answer(spec_of(resumed_call(stopping, output, had), tokenizer), 0)
            rest = read(resumed, tokens(ids, "length")[len(had) :], 1)
            assert "".join(delta.text for delta in rest) == "".join(delta.text for delta in whole[cut:])
            assert rest[0].first_token_index == whole[cut].first_token_index
            assert (rest[-1].finish, rest[-1].stop_string) == (whole[-1].finish, whole[-1].stop_string)
            assert resumed.num_tokens == len(had) + sum(len(delta.token_ids) for delta in rest)


def resumed_call(stopping: Stopping, output: Output, ids: tuple[int, ...]) -> GenerateCall:
    return GenerateCall(
        model="m",
        prompt=TokenPrompt(ids=(33, 28)),
        sampling=Sampling(seed=1),
        stopping=stopping,
        output=output,
        options=Options(request_id="r", received=0.0),
        resume_after=(ids,),
    )


@pytest.mark.parametrize(
    ("stopping", "ids", "finish"),
    [
        (Stopping(max_tokens=3), (216, 38, 28), FinishReason.MAX_TOKENS),
        (Stopping(token_ids=(28,)), (216, 38, 28), FinishReason.STOP_TOKEN),
        (Stopping(strings=(" 6,",)), (216, 38, 28), FinishReason.STOP_STRING),
    ],
)
def test_an_answer_that_had_ended_ends_again_without_a_word(
    tokenizer: Tokenizer, stopping: Stopping, ids: tuple[int, ...], finish: FinishReason
) -> None:
    resumed = Answer(spec_of(resumed_call(stopping, Output(), ids), tokenizer), 0)
    assert resumed.finish is finish
    end = resumed.ending()
    assert (end.text, end.token_ids, end.finish, end.cumulative_logprob) == ("", (), finish, None)
    with pytest.raises(InvalidRequest, match=r"resume_after\[0\] holds 4 ids; the answer ended at number 3"):
        Answer(spec_of(resumed_call(stopping, Output(), (*ids, 5)), tokenizer), 0)
