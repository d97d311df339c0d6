import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class OverflowPolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OVERFLOW_POLICY_UNSPECIFIED: _ClassVar[OverflowPolicy]
    OVERFLOW_POLICY_ERROR: _ClassVar[OverflowPolicy]
    OVERFLOW_POLICY_TRUNCATE_END: _ClassVar[OverflowPolicy]
    OVERFLOW_POLICY_TRUNCATE_START: _ClassVar[OverflowPolicy]
    OVERFLOW_POLICY_TRUNCATE_MIDDLE: _ClassVar[OverflowPolicy]
    OVERFLOW_POLICY_CHUNK: _ClassVar[OverflowPolicy]

class ChunkAggregation(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CHUNK_AGGREGATION_UNSPECIFIED: _ClassVar[ChunkAggregation]
    CHUNK_AGGREGATION_WEIGHTED_MEAN: _ClassVar[ChunkAggregation]
    CHUNK_AGGREGATION_MEAN: _ClassVar[ChunkAggregation]
    CHUNK_AGGREGATION_MAX: _ClassVar[ChunkAggregation]
    CHUNK_AGGREGATION_FIRST: _ClassVar[ChunkAggregation]
    CHUNK_AGGREGATION_NONE: _ClassVar[ChunkAggregation]

class PoolingType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    POOLING_TYPE_UNSPECIFIED: _ClassVar[PoolingType]
    POOLING_TYPE_CLS: _ClassVar[PoolingType]
    POOLING_TYPE_MEAN: _ClassVar[PoolingType]
    POOLING_TYPE_MAX: _ClassVar[PoolingType]
    POOLING_TYPE_LAST_TOKEN: _ClassVar[PoolingType]
    POOLING_TYPE_WEIGHTED_MEAN: _ClassVar[PoolingType]
    POOLING_TYPE_MEAN_SQRT_LEN: _ClassVar[PoolingType]
    POOLING_TYPE_NONE: _ClassVar[PoolingType]
    POOLING_TYPE_SPARSE: _ClassVar[PoolingType]

class Numerics(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NUMERICS_UNSPECIFIED: _ClassVar[Numerics]
    NUMERICS_EXACT: _ClassVar[Numerics]
    NUMERICS_CLOSE: _ClassVar[Numerics]
OVERFLOW_POLICY_UNSPECIFIED: OverflowPolicy
OVERFLOW_POLICY_ERROR: OverflowPolicy
OVERFLOW_POLICY_TRUNCATE_END: OverflowPolicy
OVERFLOW_POLICY_TRUNCATE_START: OverflowPolicy
OVERFLOW_POLICY_TRUNCATE_MIDDLE: OverflowPolicy
OVERFLOW_POLICY_CHUNK: OverflowPolicy
CHUNK_AGGREGATION_UNSPECIFIED: ChunkAggregation
CHUNK_AGGREGATION_WEIGHTED_MEAN: ChunkAggregation
CHUNK_AGGREGATION_MEAN: ChunkAggregation
CHUNK_AGGREGATION_MAX: ChunkAggregation
CHUNK_AGGREGATION_FIRST: ChunkAggregation
CHUNK_AGGREGATION_NONE: ChunkAggregation
POOLING_TYPE_UNSPECIFIED: PoolingType
POOLING_TYPE_CLS: PoolingType
POOLING_TYPE_MEAN: PoolingType
POOLING_TYPE_MAX: PoolingType
POOLING_TYPE_LAST_TOKEN: PoolingType
POOLING_TYPE_WEIGHTED_MEAN: PoolingType
POOLING_TYPE_MEAN_SQRT_LEN: PoolingType
POOLING_TYPE_NONE: PoolingType
POOLING_TYPE_SPARSE: PoolingType
NUMERICS_UNSPECIFIED: Numerics
NUMERICS_EXACT: Numerics
NUMERICS_CLOSE: Numerics

class TokenIds(_message.Message):
    __slots__ = ("ids",)
    IDS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, ids: _Optional[_Iterable[int]] = ...) -> None: ...

class TextSpan(_message.Message):
    __slots__ = ("start", "end")
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    start: int
    end: int
    def __init__(self, start: _Optional[int] = ..., end: _Optional[int] = ...) -> None: ...

class TextInput(_message.Message):
    __slots__ = ("text", "token_ids", "text_pair")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    TEXT_PAIR_FIELD_NUMBER: _ClassVar[int]
    text: str
    token_ids: TokenIds
    text_pair: str
    def __init__(self, text: _Optional[str] = ..., token_ids: _Optional[_Union[TokenIds, _Mapping]] = ..., text_pair: _Optional[str] = ...) -> None: ...

class ChatMessage(_message.Message):
    __slots__ = ("role", "content")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    role: str
    content: str
    def __init__(self, role: _Optional[str] = ..., content: _Optional[str] = ...) -> None: ...

class ChatPrompt(_message.Message):
    __slots__ = ("messages", "template", "add_generation_prompt", "template_arguments")
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    ADD_GENERATION_PROMPT_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    messages: _containers.RepeatedCompositeFieldContainer[ChatMessage]
    template: str
    add_generation_prompt: bool
    template_arguments: _struct_pb2.Struct
    def __init__(self, messages: _Optional[_Iterable[_Union[ChatMessage, _Mapping]]] = ..., template: _Optional[str] = ..., add_generation_prompt: bool = ..., template_arguments: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class ChunkingConfig(_message.Message):
    __slots__ = ("max_chunk_tokens", "overlap_tokens", "aggregation", "max_chunks")
    MAX_CHUNK_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OVERLAP_TOKENS_FIELD_NUMBER: _ClassVar[int]
    AGGREGATION_FIELD_NUMBER: _ClassVar[int]
    MAX_CHUNKS_FIELD_NUMBER: _ClassVar[int]
    max_chunk_tokens: int
    overlap_tokens: int
    aggregation: ChunkAggregation
    max_chunks: int
    def __init__(self, max_chunk_tokens: _Optional[int] = ..., overlap_tokens: _Optional[int] = ..., aggregation: _Optional[_Union[ChunkAggregation, str]] = ..., max_chunks: _Optional[int] = ...) -> None: ...

class RequestOptions(_message.Message):
    __slots__ = ("request_id", "priority", "fairness_key", "queue_timeout", "timeout", "include_telemetry", "bypass_prefix_cache", "cache_salt")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    FAIRNESS_KEY_FIELD_NUMBER: _ClassVar[int]
    QUEUE_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_TELEMETRY_FIELD_NUMBER: _ClassVar[int]
    BYPASS_PREFIX_CACHE_FIELD_NUMBER: _ClassVar[int]
    CACHE_SALT_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    priority: int
    fairness_key: str
    queue_timeout: _duration_pb2.Duration
    timeout: _duration_pb2.Duration
    include_telemetry: bool
    bypass_prefix_cache: bool
    cache_salt: str
    def __init__(self, request_id: _Optional[str] = ..., priority: _Optional[int] = ..., fairness_key: _Optional[str] = ..., queue_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., include_telemetry: bool = ..., bypass_prefix_cache: bool = ..., cache_salt: _Optional[str] = ...) -> None: ...

class InputReport(_message.Message):
    __slots__ = ("token_count", "truncated_tokens", "chunk_count", "unknown_token_count")
    TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CHUNK_COUNT_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    token_count: int
    truncated_tokens: int
    chunk_count: int
    unknown_token_count: int
    def __init__(self, token_count: _Optional[int] = ..., truncated_tokens: _Optional[int] = ..., chunk_count: _Optional[int] = ..., unknown_token_count: _Optional[int] = ...) -> None: ...

class Usage(_message.Message):
    __slots__ = ("prompt_tokens", "cached_prompt_tokens", "completion_tokens", "draft_tokens", "accepted_draft_tokens", "total_tokens")
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHED_PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_TOKENS_FIELD_NUMBER: _ClassVar[int]
    DRAFT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_DRAFT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    prompt_tokens: int
    cached_prompt_tokens: int
    completion_tokens: int
    draft_tokens: int
    accepted_draft_tokens: int
    total_tokens: int
    def __init__(self, prompt_tokens: _Optional[int] = ..., cached_prompt_tokens: _Optional[int] = ..., completion_tokens: _Optional[int] = ..., draft_tokens: _Optional[int] = ..., accepted_draft_tokens: _Optional[int] = ..., total_tokens: _Optional[int] = ...) -> None: ...

class Telemetry(_message.Message):
    __slots__ = ("received_time", "tokenization_duration", "queue_duration", "prefill_duration", "decode_duration", "total_duration", "time_to_first_token", "step_count", "min_batch_size", "max_batch_size", "mean_batch_size", "co_batched_tokens", "preemption_count", "peak_kv_blocks", "queue_position")
    RECEIVED_TIME_FIELD_NUMBER: _ClassVar[int]
    TOKENIZATION_DURATION_FIELD_NUMBER: _ClassVar[int]
    QUEUE_DURATION_FIELD_NUMBER: _ClassVar[int]
    PREFILL_DURATION_FIELD_NUMBER: _ClassVar[int]
    DECODE_DURATION_FIELD_NUMBER: _ClassVar[int]
    TOTAL_DURATION_FIELD_NUMBER: _ClassVar[int]
    TIME_TO_FIRST_TOKEN_FIELD_NUMBER: _ClassVar[int]
    STEP_COUNT_FIELD_NUMBER: _ClassVar[int]
    MIN_BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    MEAN_BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    CO_BATCHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PREEMPTION_COUNT_FIELD_NUMBER: _ClassVar[int]
    PEAK_KV_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_POSITION_FIELD_NUMBER: _ClassVar[int]
    received_time: _timestamp_pb2.Timestamp
    tokenization_duration: _duration_pb2.Duration
    queue_duration: _duration_pb2.Duration
    prefill_duration: _duration_pb2.Duration
    decode_duration: _duration_pb2.Duration
    total_duration: _duration_pb2.Duration
    time_to_first_token: _duration_pb2.Duration
    step_count: int
    min_batch_size: int
    max_batch_size: int
    mean_batch_size: float
    co_batched_tokens: int
    preemption_count: int
    peak_kv_blocks: int
    queue_position: int
    def __init__(self, received_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., tokenization_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., queue_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., prefill_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., decode_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., total_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., time_to_first_token: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., step_count: _Optional[int] = ..., min_batch_size: _Optional[int] = ..., max_batch_size: _Optional[int] = ..., mean_batch_size: _Optional[float] = ..., co_batched_tokens: _Optional[int] = ..., preemption_count: _Optional[int] = ..., peak_kv_blocks: _Optional[int] = ..., queue_position: _Optional[int] = ...) -> None: ...

class Provenance(_message.Message):
    __slots__ = ("model", "model_version", "adapter", "adapter_version", "device", "dtype", "quantization", "numerics", "training_run")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_VERSION_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    QUANTIZATION_FIELD_NUMBER: _ClassVar[int]
    NUMERICS_FIELD_NUMBER: _ClassVar[int]
    TRAINING_RUN_FIELD_NUMBER: _ClassVar[int]
    model: str
    model_version: str
    adapter: str
    adapter_version: str
    device: str
    dtype: str
    quantization: str
    numerics: Numerics
    training_run: str
    def __init__(self, model: _Optional[str] = ..., model_version: _Optional[str] = ..., adapter: _Optional[str] = ..., adapter_version: _Optional[str] = ..., device: _Optional[str] = ..., dtype: _Optional[str] = ..., quantization: _Optional[str] = ..., numerics: _Optional[_Union[Numerics, str]] = ..., training_run: _Optional[str] = ...) -> None: ...
