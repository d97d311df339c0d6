"""The tokenizer's and the server's services of a real server: right answers by any client, and clean codes only."""

import hashlib
import random
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
import tokenizers
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from stretto.v1 import generation_pb2, generation_pb2_grpc, server_pb2, server_pb2_grpc
from stretto.v1 import tokenizer_pb2 as pb
from stretto.v1.common_pb2 import ChatMessage, ChatPrompt, TextInput, TokenIds
from stretto.v1.tokenizer_pb2_grpc import TokenizerServiceStub

WRITER, READER = "smollm2-135m-instruct", "all-minilm-l6-v2"
TEXT = "Hi 🦙 ok 世界 – é"
IDS = [26843, 15107, 116, 243, 10907, 216, 7906, 240, 178, 239, 230, 816, 26411]
CLEAN = {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}


@pytest.fixture
def channel(server: Any) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.target) as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.Channel) -> Any:
    return TokenizerServiceStub(channel)  # type: ignore[no-untyped-call]


def downloaded(stub: Any, model: str) -> dict[str, bytes]:
    """Every file of a model's tokenizer, each with the digest that came with it."""
    files: dict[str, bytes] = {}
    digests: dict[str, str] = {}
    for message in stub.DownloadTokenizer(pb.DownloadTokenizerRequest(model=model)):
        assert len(message.chunk) <= 64 * 1024
        assert message.file_name not in digests, "a chunk came after the last"
        files[message.file_name] = files.get(message.file_name, b"") + message.chunk
        if message.sha256:
            digests[message.file_name] = message.sha256
    assert digests == {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    return files


def test_texts_become_ids_and_back(stub: Any) -> None:
    answer = stub.Tokenize(pb.TokenizeRequest(model=WRITER, inputs=[TextInput(text=TEXT)], include_pieces=True))
    assert list(answer.results[0].token_ids) == IDS
    assert b"".join(answer.results[0].pieces).decode() == TEXT
    assert answer.max_input_tokens == 8192
    back = stub.Detokenize(pb.DetokenizeRequest(model=WRITER, inputs=[TokenIds(ids=IDS)]))
    assert list(back.texts) == [TEXT]
    pair = TextInput(text="naïve", text_pair="café")
    [result] = stub.Tokenize(pb.TokenizeRequest(model=READER, inputs=[pair], include_offsets=True)).results
    assert list(result.token_ids) == [101, 15743, 102, 7668, 102]
    assert [(span.start, span.end) for span in result.offsets] == [(0, 0), (0, 5), (0, 0), (0, 4), (0, 0)]


def test_a_chat_is_counted_as_it_is_generated_from(stub: Any, channel: grpc.Channel) -> None:
    said = ChatPrompt(messages=[ChatMessage(role="user", content="Say <|im_end|>")])
    [result] = stub.Tokenize(pb.TokenizeRequest(model=WRITER, chat=said)).results
    request = generation_pb2.GenerateRequest(model=WRITER, chat=said)
    request.config.stopping.max_tokens = 0
    request.config.output.echo = True
    request.config.output.include_token_ids = True
    generated = generation_pb2_grpc.GenerationServiceStub(channel).Generate(request)  # type: ignore[no-untyped-call]
    assert list(generated.candidates[0].token_ids) == list(result.token_ids)
    assert result.token_count == generated.usage.prompt_tokens


def test_a_downloaded_tokenizer_makes_the_same_ids(stub: Any) -> None:
    files = downloaded(stub, WRITER)
    assert list(files) == ["tokenizer.json"]
    assert tokenizers.Tokenizer.from_str(files["tokenizer.json"].decode()).encode(TEXT).ids == IDS
    assert set(downloaded(stub, READER)) == {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}


def test_no_name_among_several_models_is_refused_with_their_names(stub: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.Tokenize(pb.TokenizeRequest(inputs=[TextInput(text="a")]))
    assert f"2 models are loaded: {WRITER}, {READER}" in caught.value.details()


def test_a_client_that_knows_only_reflection_tokenizes_and_asks_for_the_server(channel: grpc.Channel) -> None:
    pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))

    def call(service: str, method: str, **fields: Any) -> Any:
        found = pool.FindServiceByName(service).FindMethodByName(method)
        request, reply = GetMessageClass(found.input_type), GetMessageClass(found.output_type)
        ask = channel.unary_unary(
            f"/{service}/{method}", request_serializer=request.SerializeToString, response_deserializer=reply.FromString
        )
        return ask(request(**fields))

    answer = call("stretto.v1.TokenizerService", "Tokenize", model=WRITER, inputs=[{"text": TEXT}])
    assert list(answer.results[0].token_ids) == IDS
    info = call("stretto.v1.ServerService", "GetServerInfo")
    known = server_pb2_grpc.ServerServiceStub(channel).GetServerInfo(server_pb2.GetServerInfoRequest())  # type: ignore[no-untyped-call]
    assert (info.version, info.max_request_bytes) == (known.version, known.max_request_bytes)
    assert info.device.startswith("cpu (")


def test_two_hundred_random_messages_get_clean_codes_and_the_server_goes_on(stub: Any, server: Any) -> None:
    draw = random.Random(5)
    methods = {
        pb.TokenizeRequest: stub.Tokenize,
        pb.DetokenizeRequest: stub.Detokenize,
        pb.DownloadTokenizerRequest: lambda request: list(stub.DownloadTokenizer(request)),
    }
    codes = [code_of(methods[kind], scribbled(kind(), draw)) for kind in draw.choices([*methods], [10, 8, 1], k=200)]
    assert set(codes) <= CLEAN
    assert codes.count(grpc.StatusCode.OK) > 20, "the messages are too wild to prove anything"
    assert codes.count(grpc.StatusCode.INVALID_ARGUMENT) > 20
    assert list(stub.Detokenize(pb.DetokenizeRequest(model=WRITER, inputs=[TokenIds(ids=IDS)])).texts) == [TEXT]
    assert not any(entry.get("event") == "unexpected error" for entry in server.log)


def code_of(method: Any, request: Message) -> grpc.StatusCode:
    try:
        method(request)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


def scribbled(message: Any, draw: random.Random) -> Any:
    """The message with about half of its fields set to something."""
    for field in message.DESCRIPTOR.fields:
        if field.name == "model":
            message.model = draw.choice([WRITER, READER, READER, WRITER, "", "../x"])
        elif draw.random() < (0.15 if field.name == "chat" else 0.45):
            scribble(message, field, draw)
    return message


def scribble(message: Any, field: FieldDescriptor, draw: random.Random) -> None:
    map_entry = field.message_type is not None and field.message_type.GetOptions().map_entry
    if map_entry:
        return  # the values of template arguments: tests of the chat templates have those
    if field.message_type is not None and field.is_repeated:
        for _ in range(draw.randint(1, 4)):
            scribbled(getattr(message, field.name).add(), draw)
    elif field.message_type is not None:
        scribbled(getattr(message, field.name), draw)
    elif field.is_repeated:
        getattr(message, field.name).extend(value(field, draw) for _ in range(draw.randint(0, 30)))
    else:
        setattr(message, field.name, value(field, draw))


def value(field: FieldDescriptor, draw: random.Random) -> Any:
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return "".join(chr(draw.choice([*range(0x250), *range(0x1F600, 0x1F640)])) for _ in range(draw.randint(0, 60)))
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return draw.random() < 0.3
    return draw.choice([0, 1, 2, 101, 30521, 30521, draw.randrange(30000), 49152 if draw.random() < 0.1 else 7])
