"""Proves what TokenizerService asks, sends, refuses and bounds; the engine's side is in tests/engine."""

import asyncio
import hashlib

import grpc
import pytest

from stretto.engine.requests import Chat, TextPrompt, TokenPrompt
from stretto.engine.tokenizing import TokenizerFile
from stretto.server.tokenizing import CHUNK_BYTES, MAX_CALLS, MAX_DOWNLOADS
from stretto.v1 import common_pb2
from stretto.v1 import tokenizer_pb2 as pb
from stretto.v1.common_pb2 import ChatMessage, ChatPrompt, TextInput, TokenIds


def text(*texts, **more):
    return pb.TokenizeRequest(model="writer", inputs=[TextInput(text=each) for each in texts], **more)


def chat(messages=1, **more):
    said = [ChatMessage(role="user", content="hi")] * messages
    return pb.TokenizeRequest(model="writer", chat=ChatPrompt(messages=said), **more)


def ids(*given, **more):
    return pb.TokenizeRequest(model="writer", inputs=[TextInput(token_ids=TokenIds(ids=given))], **more)


def texts(*given, **more):
    return pb.DetokenizeRequest(model="writer", inputs=[TokenIds(ids=each) for each in given], **more)


def chat_with(**fields):
    return pb.TokenizeRequest(
        model="writer", chat=ChatPrompt(messages=[ChatMessage(role="user", content="hi")], **fields)
    )


def said(**fields):
    return pb.TokenizeRequest(model="writer", chat=ChatPrompt(messages=[ChatMessage(**fields)]))


def with_arguments():
    request = chat()
    request.chat.template_arguments["key"] = "value"
    return request


DOWNLOAD = pb.DownloadTokenizerRequest(model="writer")
# For every field: a request without it, and the same with it.
EFFECTS = {
    "TokenizeRequest.model": (text("ab"), pb.TokenizeRequest(model="reader", inputs=text("ab").inputs)),
    "TokenizeRequest.inputs": (text("ab"), text("ab", "c")),
    "TokenizeRequest.add_special_tokens": (text("ab"), text("ab", add_special_tokens=False)),
    "TokenizeRequest.include_offsets": (text("ab"), text("ab", include_offsets=True)),
    "TokenizeRequest.include_pieces": (text("ab"), text("ab", include_pieces=True)),
    "TokenizeRequest.count_only": (text("ab"), text("ab", count_only=True)),
    "TokenizeRequest.chat": (text("ab"), chat()),
    "TokenizeRequest.parse_special_tokens": (text("ab"), text("ab", parse_special_tokens=False)),
    "TextInput.text": (text("ab"), text("ac")),
    "TextInput.token_ids": (text("a"), ids(97)),
    "TextInput.text_pair": (
        text("ab"),
        pb.TokenizeRequest(model="writer", inputs=[TextInput(text="ab", text_pair="")]),
    ),
    "ChatPrompt.messages": (chat(), chat(messages=2)),
    "ChatPrompt.template": (chat(), chat_with(template="tool_use")),
    "ChatPrompt.add_generation_prompt": (chat(), chat_with(add_generation_prompt=False)),
    "ChatPrompt.template_arguments": (chat(), with_arguments()),
    "ChatMessage.role": (chat(), said(role="system", content="hi")),
    "ChatMessage.content": (chat(), said(role="user", content="ho")),
    "DetokenizeRequest.model": (texts([97]), pb.DetokenizeRequest(model="reader", inputs=texts([97]).inputs)),
    "DetokenizeRequest.inputs": (texts([97]), texts([97], [98])),
    "DetokenizeRequest.skip_special_tokens": (texts([97]), texts([97], skip_special_tokens=False)),
    "TokenIds.ids": (texts([97]), texts([98])),
    "DownloadTokenizerRequest.model": (DOWNLOAD, pb.DownloadTokenizerRequest(model="reader")),
}


async def outcome(running, request):
    """What was asked of the engine and what came back."""
    if isinstance(request, pb.DownloadTokenizerRequest):
        return [message async for message in running.tokenizer.DownloadTokenizer(request)]
    method = running.tokenizer.Tokenize if isinstance(request, pb.TokenizeRequest) else running.tokenizer.Detokenize
    reply = await method(request)
    return running.engine.calls[-1], reply


async def refused(call):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def test_every_field_of_the_requests_is_in_the_table():
    messages = (
        *(pb.TokenizeRequest, pb.DetokenizeRequest, pb.DownloadTokenizerRequest),
        *(TextInput, TokenIds, ChatPrompt, ChatMessage),
    )
    fields = {f"{each.DESCRIPTOR.name}.{field.name}" for each in messages for field in each.DESCRIPTOR.fields}
    assert fields == set(EFFECTS)


@pytest.mark.parametrize("field", EFFECTS)
async def test_every_field_changes_what_is_asked_or_answered(running, field):
    without, with_it = EFFECTS[field]
    assert await outcome(running, without) == await outcome(running, without)
    assert await outcome(running, with_it) != await outcome(running, without)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.TokenizeRequest(model="writer"), "inputs"),
        (pb.TokenizeRequest(inputs=[TextInput(text="a")]), "model"),
        (pb.TokenizeRequest(model="nobody", inputs=[TextInput(text="a")]), "model"),
        (pb.TokenizeRequest(model="writer", inputs=[TextInput(text="a"), TextInput()]), "inputs[1]"),
        (pb.TokenizeRequest(model="writer", inputs=[TextInput(text_pair="a")]), "inputs[0]"),
        (
            pb.TokenizeRequest(model="writer", inputs=[TextInput(token_ids=TokenIds(ids=[1]), text_pair="a")]),
            "inputs[0].text_pair",
        ),
        (text("a", chat=chat().chat), "chat"),
        (chat(messages=0), "chat.messages"),
        (chat(add_special_tokens=True), "add_special_tokens"),
        (chat(parse_special_tokens=True), "parse_special_tokens"),
        (chat(include_offsets=True), "include_offsets"),
        (ids(1, add_special_tokens=True), "add_special_tokens"),
        (ids(1, parse_special_tokens=True), "parse_special_tokens"),
        (ids(1, include_offsets=True), "include_offsets"),
        (text("a", count_only=True, include_offsets=True), "include_offsets"),
        (text("a", count_only=True, include_pieces=True), "include_pieces"),
        (texts(), "inputs"),
        (pb.DetokenizeRequest(inputs=[TokenIds(ids=[1])]), "model"),
        (pb.DownloadTokenizerRequest(), "model"),
        (pb.DownloadTokenizerRequest(model="../writer"), "model"),
    ],
)
async def test_what_makes_no_sense_is_refused_by_its_field(running, request_, field):
    error = await refused(outcome(running, request_))
    missing = field == "model"
    assert error.code() is (grpc.StatusCode.NOT_FOUND if missing else grpc.StatusCode.INVALID_ARGUMENT)
    assert field in error.details()
    assert not running.engine.calls


async def test_special_tokens_are_asked_for_in_texts_by_default_and_never_in_a_chat(running):
    mixed = text("ab", add_special_tokens=True, parse_special_tokens=True)
    mixed.inputs.add(token_ids=TokenIds(ids=[99]))
    await running.tokenizer.Tokenize(mixed)
    await running.tokenizer.Tokenize(chat(add_special_tokens=False, parse_special_tokens=False))
    assert [call.inputs for call in running.engine.calls] == [
        (TextPrompt(text="ab", add_special_tokens=True, parse_special_tokens=True), TokenPrompt(ids=(99,))),
        (Chat(messages=running.engine.calls[1].inputs[0].messages),),
    ]


async def test_tokens_come_with_pieces_and_offsets_an_input_a_result(running):
    answer = await running.tokenizer.Tokenize(text("a\u00e9", "", include_offsets=True, include_pieces=True))
    spans = [common_pb2.TextSpan(start=0, end=1), common_pb2.TextSpan(start=1, end=2)]
    assert list(answer.results) == [
        pb.Tokenization(token_count=2, token_ids=[97, 233], pieces=[b"a", b"\xc3\xa9"], offsets=spans),
        pb.Tokenization(),
    ]
    assert answer.max_input_tokens == 127


async def test_only_the_number_comes_where_only_that_is_asked(running):
    answer = await running.tokenizer.Tokenize(text("abc", count_only=True))
    assert list(answer.results) == [pb.Tokenization(token_count=3)]


async def test_too_many_inputs_are_refused_before_anything_is_made_of_them(serve):
    async with serve(max_inputs=10) as running:
        for request in (pb.TokenizeRequest(inputs=[TextInput()] * 100_000), texts(*[[]] * 100_000)):
            request.model = "writer"
            error = await refused(outcome(running, request))
            assert "holds 100000; the limit is 10" in error.details()
        assert not running.engine.calls


async def test_a_reply_that_would_not_fit_a_message_is_refused_by_its_size(serve):
    async with serve(max_response_bytes=8192) as running:
        error = await refused(running.tokenizer.Tokenize(text("a" * 8192)))
        assert "the limit is 8192" in error.details()
        await running.tokenizer.Detokenize(texts([97]))
        assert running.engine.calls[-1].max_bytes == 8192


async def test_one_call_more_than_there_are_places_is_refused_with_the_figures_and_others_still_run(running):
    running.engine.go_on = asyncio.Event()
    calls = [asyncio.ensure_future(running.tokenizer.Tokenize(text("a"))) for _ in range(MAX_CALLS)]
    calls.append(asyncio.ensure_future(running.tokenizer.Detokenize(texts([97]))))
    done, held = await asyncio.wait(calls, timeout=5, return_when=asyncio.FIRST_COMPLETED)
    [error] = [each.exception() for each in done]
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert f"{MAX_CALLS} Tokenize and Detokenize calls are running" in error.details()
    assert [message async for message in running.tokenizer.DownloadTokenizer(DOWNLOAD)]
    held.pop().cancel()
    running.engine.go_on.set()
    await asyncio.gather(*held)
    await asyncio.wait_for(running.server._gate.empty(), 5)
    await asyncio.gather(*[running.tokenizer.Tokenize(text("a")) for _ in range(MAX_CALLS)])


async def test_a_tokenizer_comes_in_chunks_file_by_file_each_with_its_digest(running, tmp_path):
    large = bytes(range(256)) * 300
    assert CHUNK_BYTES < len(large) < 2 * CHUNK_BYTES
    (tmp_path / "tokenizer.json").write_bytes(large)
    running.engine.files = [
        TokenizerFile(name="tokenizer.json", content=tmp_path / "tokenizer.json"),
        TokenizerFile(name="exact", content=large[:CHUNK_BYTES]),
        TokenizerFile(name="empty", content=b""),
    ]
    messages = [message async for message in running.tokenizer.DownloadTokenizer(DOWNLOAD)]
    assert [(each.file_name, len(each.chunk), each.sha256) for each in messages] == [
        ("tokenizer.json", CHUNK_BYTES, ""),
        ("tokenizer.json", len(large) - CHUNK_BYTES, hashlib.sha256(large).hexdigest()),
        ("exact", CHUNK_BYTES, hashlib.sha256(large[:CHUNK_BYTES]).hexdigest()),
        ("empty", 0, hashlib.sha256(b"").hexdigest()),
    ]
    assert messages[0].chunk + messages[1].chunk == large


async def test_a_file_that_is_gone_is_said_by_name(running, tmp_path):
    running.engine.files = [TokenizerFile(name="tokenizer.json", content=tmp_path / "tokenizer.json")]
    error = await refused(outcome(running, DOWNLOAD))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert error.details() == "tokenizer.json cannot be read: No such file or directory."


async def test_downloads_that_nobody_reads_are_few_and_end(serve):
    async with serve(stall_seconds=0.5) as running:
        running.engine.files = [TokenizerFile(name="tokenizer.json", content=bytes(64 << 20))]
        unread = [running.tokenizer.DownloadTokenizer(DOWNLOAD) for _ in range(MAX_DOWNLOADS)]
        for call in unread:
            await call.read()
        error = await refused(outcome(running, DOWNLOAD))
        assert f"{MAX_DOWNLOADS} downloads of tokenizers are running" in error.details()
        await asyncio.wait_for(running.server._gate.empty(), 5)
        assert "SLOW_READER" in running.log.getvalue()
        running.engine.files = []
        assert await outcome(running, DOWNLOAD)
        for call in unread:
            call.cancel()


async def test_a_download_of_which_nothing_is_read_ends_for_both_sides(serve):
    small_window = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1024)]
    async with serve(stall_seconds=0.3, channel_options=small_window) as running:
        running.engine.files = [TokenizerFile(name="tokenizer.json", content=bytes(10 * CHUNK_BYTES))]
        unread = running.tokenizer.DownloadTokenizer(DOWNLOAD)
        await unread.initial_metadata()
        await asyncio.wait_for(running.server._gate.empty(), 5)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asyncio.wait_for(all_of(unread), 5)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def all_of(messages):
    return [message async for message in messages]
