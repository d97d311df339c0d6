"""From the wire to the engine: TokenizeRequest and DetokenizeRequest become calls, or are refused."""

from dataclasses import replace

from google.protobuf.message import Message

from stretto.engine.errors import InvalidRequest
from stretto.engine.requests import Prompt, TextPrompt, TokenPrompt
from stretto.engine.tokenizing import DetokenizeCall, TokenizeCall
from stretto.server.reading import check_inputs, read_chat, text_input
from stretto.v1 import common_pb2
from stretto.v1 import tokenizer_pb2 as pb

OF_TEXTS = ("add_special_tokens", "parse_special_tokens")
DETAILS = ("include_offsets", "include_pieces")


def tokenize_call(request: pb.TokenizeRequest, model: str, *, max_inputs: int) -> TokenizeCall:
    inputs = _inputs(request, max_inputs)
    texts = [isinstance(given, TextPrompt) for given in inputs]
    if not any(texts):
        _refuse_true(request, OF_TEXTS, "can be true for texts only, and there is none among the inputs")
    if not all(texts):
        why = "is for texts only: tokens of a chat, and ids that were sent, stand at no place of a text that was sent"
        _refuse_true(request, ("include_offsets",), why)
    if request.count_only:
        _refuse_true(request, DETAILS, "cannot be true with count_only, which gives the numbers alone")
    return TokenizeCall(
        model=model,
        inputs=inputs,
        with_ids=not request.count_only,
        with_pieces=request.include_pieces,
        with_offsets=request.include_offsets,
    )


def detokenize_call(request: pb.DetokenizeRequest, model: str, *, max_inputs: int, max_bytes: int) -> DetokenizeCall:
    check_inputs(len(request.inputs), max_inputs)
    return DetokenizeCall(
        model=model,
        inputs=tuple(tuple(given.ids) for given in request.inputs),
        skip_special_tokens=request.skip_special_tokens if request.HasField("skip_special_tokens") else True,
        max_bytes=max_bytes,
    )


def _inputs(request: pb.TokenizeRequest, max_inputs: int) -> tuple[Prompt, ...]:
    if not request.HasField("chat"):
        check_inputs(len(request.inputs), max_inputs)
        return tuple(_input(request, given, f"inputs[{place}]") for place, given in enumerate(request.inputs))
    if request.inputs:
        raise InvalidRequest(
            f"chat stands in the place of inputs, and this request has {len(request.inputs)} of those too.",
            field="chat",
        )
    return (read_chat(request.chat),)


def _input(request: pb.TokenizeRequest, given: common_pb2.TextInput, path: str) -> TextPrompt | TokenPrompt:
    read = text_input(given, path)
    if isinstance(read, InvalidRequest):
        raise read
    if isinstance(read, TokenPrompt):
        return read
    return replace(
        read,
        add_special_tokens=request.add_special_tokens if request.HasField("add_special_tokens") else True,
        parse_special_tokens=request.parse_special_tokens if request.HasField("parse_special_tokens") else True,
    )


def _refuse_true(request: Message, names: tuple[str, ...], why: str) -> None:
    for name in names:
        if getattr(request, name):
            raise InvalidRequest(f"{name} {why}.", field=name)
