"""
Proves that no field of a request is accepted and ignored.

Every field that the descriptors know is set, one at a time: it is refused by its path, or it changes what the engine is
asked or what is sent back. A field that is added to the protos and nowhere else fails here.
"""

import math
import re

import pytest
from google.protobuf.descriptor import FieldDescriptor as Kind

from stretto.engine.errors import AdapterNotFound, InvalidRequest, StrettoError
from stretto.server import embedding_reading, generation_reading, reading, refusals
from stretto.server.call import Call
from stretto.v1 import common_pb2, embedding_pb2, generation_pb2

WHOLE = {"google.protobuf.Duration", "google.protobuf.Struct", "google.protobuf.Empty"}
# Set on a request like this one, where a value has an effect of its own.
PROMPTS = {
    "chat": {"chat.messages": common_pb2.ChatMessage(role="user", content="x")},
    "add_special_tokens": {"text": "t"},
    "parse_special_tokens": {"text": "t"},
}
# Values that differ from the default, where 1 or True would not do.
VALUES = {
    "model": "other",
    "options.request_id": "mine",
    "add_special_tokens": False,
    "parse_special_tokens": False,
    "config.sampling.candidate_count": 2,
    "config.sampling.best_of": 3,
    "config.sampling.temperature": 0.5,
    "config.sampling.top_p": 0.5,
    "config.sampling.typical_p": 0.5,
    "config.sampling.repetition_penalty": 1.5,
    "config.output.include_text": False,
    "config.output.skip_special_tokens": False,
    "chat.add_generation_prompt": False,
    "config.layer": -2,
    "config.encoding": embedding_pb2.EMBEDDING_ENCODING_FLOAT16,
    "config.chunking.aggregation": common_pb2.CHUNK_AGGREGATION_MEAN,
}


def leaves(descriptor, prefix=""):
    """The path of every field, down to scalars, lists and well-known types."""
    for field in descriptor.fields:
        path = prefix + field.name
        inner = field.message_type
        if inner is None or field.is_repeated or inner.full_name in WHOLE:
            yield path, field
        else:
            yield from leaves(inner, path + ".")


GENERATE = dict(leaves(generation_pb2.GenerateRequest.DESCRIPTOR))
EMBED = dict(leaves(embedding_pb2.EmbedRequest.DESCRIPTOR))
SCORE = dict(leaves(generation_pb2.ScoreRequest.DESCRIPTOR))
EMBED_STREAM = dict(leaves(embedding_pb2.EmbedStreamConfig.DESCRIPTOR))
STREAM = {
    path: field
    for path, field in leaves(generation_pb2.GenerateStreamRequest.DESCRIPTOR)
    if path.startswith("stream_options.")
}


def put(message, path, value):
    *way, name = path.split(".")
    for step in way:
        message = getattr(message, step)
    field = message.DESCRIPTOR.fields_by_name[name]
    if field.is_repeated and field.message_type is not None and field.message_type.GetOptions().map_entry:
        getattr(message, name)[value] = 1
    elif field.is_repeated:
        getattr(message, name).append(value)
    elif field.message_type is not None:
        getattr(message, name).SetInParent()
        getattr(message, name).MergeFrom(value)
    else:
        setattr(message, name, value)


def other_than_default(path, field):
    if path in VALUES:
        return VALUES[path]
    inner = field.message_type
    if inner is not None and inner.GetOptions().map_entry:
        return 1
    if inner is not None and inner.full_name == "google.protobuf.Duration":
        return inner._concrete_class(seconds=3)
    if inner is not None and inner.full_name == "google.protobuf.Struct":
        struct = inner._concrete_class()
        struct["key"] = "value"
        return struct
    if inner is not None:
        return inner._concrete_class()
    return {Kind.CPPTYPE_STRING: "x", Kind.CPPTYPE_BOOL: True}.get(field.cpp_type, 1)


def call():
    return Call(
        context=None,
        path="/s/m",
        task="generate",
        request_id="",
        received=0.0,
        deadline=None,
        stall_seconds=1.0,
        max_response_bytes=1 << 20,
    )


def read_generate(request):
    options = reading.options_of(request)
    reading.check_request_id(options.request_id)
    return (
        generation_reading.generate_call(request, request.model, call()),
        generation_reading.generate_wishes(request),
        options.request_id,
    )


def read_embed(request):
    options = reading.options_of(request)
    reading.check_request_id(options.request_id)
    asked = embedding_reading.embed_call(request, request.model, call())
    return asked, embedding_reading.encoding_of(request.config), options.request_id, options.include_telemetry


def read_embed_stream(opening):
    options = reading.options_of(embedding_pb2.EmbedStreamRequest(config=opening))
    reading.check_request_id(options.request_id)
    asked = embedding_reading.stream_call(opening, opening.model, call())
    return asked, embedding_reading.encoding_of(opening.config), options.request_id, options.include_telemetry


def embed_request(path=""):
    request = embedding_pb2.EmbedRequest(inputs=[common_pb2.TextInput(text="a")])
    if path.startswith("config.chunking."):
        request.config.overflow_policy = common_pb2.OVERFLOW_POLICY_CHUNK
    return request


def embed_opening(path=""):
    return embedding_pb2.EmbedStreamConfig(config=embed_request(path).config)


def read_score(request):
    options = reading.options_of(request)
    reading.check_request_id(options.request_id)
    return generation_reading.score_call(request, request.model, call()), options.request_id, options.include_telemetry


def outcome(read, request):
    """What reading gives: values to compare, or the field that was refused."""
    try:
        return read(request)
    except StrettoError as error:
        return error


def generate_request(path):
    request = generation_pb2.GenerateRequest(text="some text")
    for other, value in PROMPTS.get(path.split(".")[0], {}).items():
        put(request, other, value)
    return request


@pytest.mark.parametrize("path", GENERATE)
def test_every_field_of_generate_is_refused_by_name_or_has_an_effect(path):
    request = generate_request(path)
    before = outcome(read_generate, request)
    put(request, path, other_than_default(path, GENERATE[path]))
    after = outcome(read_generate, request)
    if refused := refused_path(path, refusals.GENERATE):
        assert isinstance(after, AdapterNotFound if path == "adapter" else InvalidRequest)
        assert after.field == refused
        assert path == "adapter" or "not supported yet" in after.message
    else:
        assert not isinstance(after, StrettoError), after
        assert after != before


@pytest.mark.parametrize(("read", "make"), [(read_embed, embed_request), (read_embed_stream, embed_opening)])
@pytest.mark.parametrize("path", EMBED_STREAM)
def test_every_field_of_embed_and_its_stream_is_refused_by_name_or_has_an_effect(read, make, path):
    assert {*EMBED_STREAM} == {*EMBED} - {"inputs"}
    request = make(path)
    before = outcome(read, request)
    put(request, path, other_than_default(path, EMBED[path]))
    after = outcome(read, request)
    if refused := refused_path(path, refusals.EMBED):
        assert after.field == refused
        assert path == "adapter" or "not supported yet" in after.message
    else:
        assert not isinstance(after, StrettoError), after
        assert after != before


@pytest.mark.parametrize("path", [path for path in SCORE if path != "items"])
def test_every_field_of_score_is_refused_by_name_or_has_an_effect(path):
    item = generation_pb2.ScoreItem(continuations=[common_pb2.TextInput(text="a")])
    request = generation_pb2.ScoreRequest(items=[item])
    before = outcome(read_score, request)
    put(request, path, other_than_default(path, SCORE[path]))
    after = outcome(read_score, request)
    if refused := refused_path(path, refusals.OPTIONS):
        assert after.field == refused
    else:
        assert not isinstance(after, StrettoError), after
        assert after != before


@pytest.mark.parametrize("part", ["context", "continuations"])
@pytest.mark.parametrize("field", ["text", "token_ids", "text_pair"])
def test_every_field_of_a_scored_text_has_an_effect_of_its_own(part, field):
    """`text_pair` makes an error of the item, and of no other."""
    item = generation_pb2.ScoreItem(continuations=[common_pb2.TextInput(text="a")])
    request = generation_pb2.ScoreRequest(items=[item, item])
    before = read_score(request)
    first = request.items[0]
    text = first.context if part == "context" else first.continuations[0]
    put(text, field, common_pb2.TokenIds(ids=[1]) if field == "token_ids" else "b")
    after = read_score(request)
    assert after[0].items[0] != before[0].items[0]
    assert after[0].items[1] == before[0].items[1]


@pytest.mark.parametrize(
    "policy",
    [
        common_pb2.OVERFLOW_POLICY_TRUNCATE_END,
        common_pb2.OVERFLOW_POLICY_TRUNCATE_MIDDLE,
        common_pb2.OVERFLOW_POLICY_CHUNK,
        99,
    ],
)
def test_a_scored_context_can_only_be_cut_at_its_start(policy):
    item = generation_pb2.ScoreItem(continuations=[common_pb2.TextInput(text="a")])
    with pytest.raises(InvalidRequest) as caught:
        read_score(generation_pb2.ScoreRequest(items=[item], overflow_policy=policy))
    assert caught.value.field == "overflow_policy"


def refused_path(path, table):
    """The row of the table that covers a path, or None; `adapter` is not in the table, being a rule of its own."""
    rows = [*table, "adapter"]
    return next((row for row in rows if path == row or path.startswith(row + ".")), None)


@pytest.mark.parametrize("path", STREAM)
def test_every_stream_option_has_an_effect(path):
    request = generation_pb2.GenerateStreamRequest()
    before = outcome(generation_reading.stream_wishes, request)
    put(request, path, other_than_default(path, STREAM[path]))
    assert outcome(generation_reading.stream_wishes, request) != before


@pytest.mark.parametrize("path", [*refusals.GENERATE, *refusals.EMBED])
def test_every_row_of_the_tables_is_a_field_that_exists(path):
    known = {*GENERATE, *EMBED}
    assert any(each == path or each.startswith(path + ".") for each in known)


@pytest.mark.parametrize("field", ["text", "token_ids", "text_pair"])
def test_every_field_of_an_input_has_an_effect_of_its_own(field):
    assert {each.name for each in common_pb2.TextInput.DESCRIPTOR.fields} == {"text", "token_ids", "text_pair"}
    request = embed_request()
    before = read_embed(request)
    put(request.inputs[0], field, common_pb2.TokenIds(ids=[1]) if field == "token_ids" else "b")
    assert read_embed(request) != before


@pytest.mark.parametrize(
    ("table", "read", "make"),
    [
        (refusals.GENERATE, read_generate, lambda: generation_pb2.GenerateRequest(text="a")),
        (refusals.EMBED, read_embed, embed_request),
    ],
)
def test_values_that_change_nothing_are_accepted(table, read, make):
    for path, neutral in table.items():
        for value in neutral:
            request = make()
            before = read(request)
            put(request, path, value)
            assert read(request) == before


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("config.sampling.temperature", math.nan),
        ("config.sampling.temperature", -0.1),
        ("config.sampling.temperature", math.inf),
        ("config.sampling.top_p", math.nan),
        ("config.sampling.top_p", 0.0),
        ("config.sampling.top_p", 1.7),
        ("config.sampling.min_p", math.nan),
        ("config.sampling.min_p", 1.1),
        ("config.sampling.typical_p", math.nan),
        ("config.sampling.typical_p", 0.0),
        ("config.sampling.typical_p", 1.1),
        ("config.sampling.repetition_penalty", 0.0),
        ("config.sampling.repetition_penalty", -1.0),
        ("config.sampling.repetition_penalty", 101.0),
        ("config.sampling.repetition_penalty", math.nan),
        ("config.sampling.presence_penalty", 2.1),
        ("config.sampling.presence_penalty", math.nan),
        ("config.sampling.frequency_penalty", -2.1),
        ("config.sampling.frequency_penalty", math.nan),
        ("config.sampling.penalty_window", 0),
        ("config.sampling.no_repeat_ngram_size", 65),
        ("config.sampling.banned_strings", ""),
        ("config.sampling.banned_strings", "x" * 257),
        ("config.sampling.candidate_count", 0),
        ("config.sampling.candidate_count", 9),
        ("config.sampling.best_of", 0),
        ("config.sampling.best_of", 9),
        ("response_prefix", "x" * 65_537),
        ("config.stopping.stop_strings", ""),
        ("config.output.top_logprobs", 21),
        ("overflow_policy", 99),
        ("overflow_policy", common_pb2.OVERFLOW_POLICY_CHUNK),
        ("options.priority", 101),
        ("options.priority", -101),
        ("options.request_id", "x" * 129),
        ("options.request_id", "new\nline"),
        ("options.request_id", "é"),
        ("options.timeout", GENERATE["options.timeout"].message_type._concrete_class(seconds=-1)),
        ("options.queue_timeout", GENERATE["options.timeout"].message_type._concrete_class(nanos=-1)),
        ("config.stopping.time_limit", GENERATE["options.timeout"].message_type._concrete_class(nanos=2_000_000_000)),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_path(path, value):
    request = generation_pb2.GenerateRequest(text="a")
    put(request, path, value)
    with pytest.raises(InvalidRequest, match=re.escape(path)) as caught:
        read_generate(request)
    assert caught.value.field == path


@pytest.mark.parametrize(
    ("sampling", "path", "said"),
    [
        ({"logit_bias": {5: math.nan}}, "logit_bias", r"the bias of 5 in .* must be in \[-100, 100\]; got nan"),
        ({"logit_bias": {5: 1.0, 6: -100.5}}, "logit_bias", r"the bias of 6 in .* got -100.5"),
        ({"logit_bias": dict.fromkeys(range(1025), 1.0)}, "logit_bias", r"number of .* \[0, 1024\]; got 1025"),
        ({"allowed_token_ids": range(4097)}, "allowed_token_ids", r"number of .* \[0, 4096\]; got 4097"),
        ({"banned_token_ids": range(4097)}, "banned_token_ids", r"number of .* \[0, 4096\]; got 4097"),
        ({"banned_strings": ["x"] * 65}, "banned_strings", r"number of .* \[0, 64\]; got 65"),
    ],
)
def test_a_list_of_sampling_is_bounded_in_number_and_value(sampling, path, said):
    request = generation_pb2.GenerateRequest(text="a")
    request.config.sampling.CopyFrom(generation_pb2.SamplingConfig(**sampling))
    with pytest.raises(InvalidRequest, match=said) as caught:
        read_generate(request)
    assert caught.value.field == f"config.sampling.{path}"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("config.pooling", 99),
        ("config.pooling", common_pb2.POOLING_TYPE_SPARSE),
        ("config.encoding", 99),
        ("config.overflow_policy", 99),
        ("config.dimensions", 0),
        ("config.chunking", common_pb2.ChunkingConfig()),
        ("config.chunking.aggregation", 99),
        ("config.chunking.max_chunks", 1025),
    ],
)
def test_a_value_that_embed_has_not_is_refused_by_its_path(path, value):
    request = embed_request(path)
    put(request, path, value)
    with pytest.raises(InvalidRequest) as caught:
        read_embed(request)
    assert caught.value.field == path


@pytest.mark.parametrize("aggregation", [*set(embedding_reading.AGGREGATION) - {common_pb2.CHUNK_AGGREGATION_NONE}])
def test_what_keeps_a_vector_a_token_cannot_combine_chunks(aggregation):
    request = embed_request("config.chunking.aggregation")
    request.config.pooling = common_pb2.POOLING_TYPE_NONE
    request.config.chunking.aggregation = aggregation
    with pytest.raises(InvalidRequest) as caught:
        read_embed(request)
    assert caught.value.field == "config.chunking.aggregation"
    request.config.chunking.aggregation = common_pb2.CHUNK_AGGREGATION_NONE
    read_embed(request)


def test_a_template_argument_that_is_no_number_is_refused():
    request = generate_request("chat")
    request.chat.template_arguments["x"] = math.nan
    with pytest.raises(InvalidRequest, match="finite"):
        read_generate(request)


@pytest.mark.parametrize("name", ["add_special_tokens", "parse_special_tokens"])
@pytest.mark.parametrize("kind", ["chat", "token_ids"])
def test_special_tokens_can_be_asked_for_in_text_only(name, kind):
    request = generation_pb2.GenerateRequest(token_ids=common_pb2.TokenIds(ids=[1]))
    if kind == "chat":
        request = generate_request("chat")
    put(request, name, False)
    read_generate(request)
    put(request, name, True)
    with pytest.raises(InvalidRequest) as caught:
        read_generate(request)
    assert caught.value.field == name
