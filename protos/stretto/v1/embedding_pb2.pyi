from google.rpc import status_pb2 as _status_pb2
from stretto.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EmbeddingEncoding(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EMBEDDING_ENCODING_UNSPECIFIED: _ClassVar[EmbeddingEncoding]
    EMBEDDING_ENCODING_FLOAT32: _ClassVar[EmbeddingEncoding]
    EMBEDDING_ENCODING_FLOAT16: _ClassVar[EmbeddingEncoding]
    EMBEDDING_ENCODING_BFLOAT16: _ClassVar[EmbeddingEncoding]
    EMBEDDING_ENCODING_INT8: _ClassVar[EmbeddingEncoding]
    EMBEDDING_ENCODING_UINT8: _ClassVar[EmbeddingEncoding]
    EMBEDDING_ENCODING_BINARY: _ClassVar[EmbeddingEncoding]
EMBEDDING_ENCODING_UNSPECIFIED: EmbeddingEncoding
EMBEDDING_ENCODING_FLOAT32: EmbeddingEncoding
EMBEDDING_ENCODING_FLOAT16: EmbeddingEncoding
EMBEDDING_ENCODING_BFLOAT16: EmbeddingEncoding
EMBEDDING_ENCODING_INT8: EmbeddingEncoding
EMBEDDING_ENCODING_UINT8: EmbeddingEncoding
EMBEDDING_ENCODING_BINARY: EmbeddingEncoding

class EmbedConfig(_message.Message):
    __slots__ = ("pooling", "normalize", "dimensions", "encoding", "prompt_name", "prompt_text", "overflow_policy", "chunking", "layer")
    POOLING_FIELD_NUMBER: _ClassVar[int]
    NORMALIZE_FIELD_NUMBER: _ClassVar[int]
    DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    PROMPT_NAME_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TEXT_FIELD_NUMBER: _ClassVar[int]
    OVERFLOW_POLICY_FIELD_NUMBER: _ClassVar[int]
    CHUNKING_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    pooling: _common_pb2.PoolingType
    normalize: bool
    dimensions: int
    encoding: EmbeddingEncoding
    prompt_name: str
    prompt_text: str
    overflow_policy: _common_pb2.OverflowPolicy
    chunking: _common_pb2.ChunkingConfig
    layer: int
    def __init__(self, pooling: _Optional[_Union[_common_pb2.PoolingType, str]] = ..., normalize: bool = ..., dimensions: _Optional[int] = ..., encoding: _Optional[_Union[EmbeddingEncoding, str]] = ..., prompt_name: _Optional[str] = ..., prompt_text: _Optional[str] = ..., overflow_policy: _Optional[_Union[_common_pb2.OverflowPolicy, str]] = ..., chunking: _Optional[_Union[_common_pb2.ChunkingConfig, _Mapping]] = ..., layer: _Optional[int] = ...) -> None: ...

class EmbedRequest(_message.Message):
    __slots__ = ("model", "adapter", "inputs", "config", "options")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    model: str
    adapter: str
    inputs: _containers.RepeatedCompositeFieldContainer[_common_pb2.TextInput]
    config: EmbedConfig
    options: _common_pb2.RequestOptions
    def __init__(self, model: _Optional[str] = ..., adapter: _Optional[str] = ..., inputs: _Optional[_Iterable[_Union[_common_pb2.TextInput, _Mapping]]] = ..., config: _Optional[_Union[EmbedConfig, _Mapping]] = ..., options: _Optional[_Union[_common_pb2.RequestOptions, _Mapping]] = ...) -> None: ...

class SparseVector(_message.Message):
    __slots__ = ("indices", "values")
    INDICES_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    indices: _containers.RepeatedScalarFieldContainer[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, indices: _Optional[_Iterable[int]] = ..., values: _Optional[_Iterable[float]] = ...) -> None: ...

class DenseVector(_message.Message):
    __slots__ = ("values", "data", "encoding", "dimensions", "scale", "offset")
    VALUES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    data: bytes
    encoding: EmbeddingEncoding
    dimensions: int
    scale: float
    offset: float
    def __init__(self, values: _Optional[_Iterable[float]] = ..., data: _Optional[bytes] = ..., encoding: _Optional[_Union[EmbeddingEncoding, str]] = ..., dimensions: _Optional[int] = ..., scale: _Optional[float] = ..., offset: _Optional[float] = ...) -> None: ...

class Embedding(_message.Message):
    __slots__ = ("vectors", "sparse", "input", "token_ids")
    VECTORS_FIELD_NUMBER: _ClassVar[int]
    SPARSE_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    vectors: _containers.RepeatedCompositeFieldContainer[DenseVector]
    sparse: SparseVector
    input: _common_pb2.InputReport
    token_ids: _common_pb2.TokenIds
    def __init__(self, vectors: _Optional[_Iterable[_Union[DenseVector, _Mapping]]] = ..., sparse: _Optional[_Union[SparseVector, _Mapping]] = ..., input: _Optional[_Union[_common_pb2.InputReport, _Mapping]] = ..., token_ids: _Optional[_Union[_common_pb2.TokenIds, _Mapping]] = ...) -> None: ...

class EmbedResult(_message.Message):
    __slots__ = ("embedding", "error")
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    embedding: Embedding
    error: _status_pb2.Status
    def __init__(self, embedding: _Optional[_Union[Embedding, _Mapping]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class EmbedResponse(_message.Message):
    __slots__ = ("request_id", "results", "usage", "telemetry", "provenance")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    TELEMETRY_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    results: _containers.RepeatedCompositeFieldContainer[EmbedResult]
    usage: _common_pb2.Usage
    telemetry: _common_pb2.Telemetry
    provenance: _common_pb2.Provenance
    def __init__(self, request_id: _Optional[str] = ..., results: _Optional[_Iterable[_Union[EmbedResult, _Mapping]]] = ..., usage: _Optional[_Union[_common_pb2.Usage, _Mapping]] = ..., telemetry: _Optional[_Union[_common_pb2.Telemetry, _Mapping]] = ..., provenance: _Optional[_Union[_common_pb2.Provenance, _Mapping]] = ...) -> None: ...

class EmbedStreamConfig(_message.Message):
    __slots__ = ("model", "adapter", "config", "options")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    model: str
    adapter: str
    config: EmbedConfig
    options: _common_pb2.RequestOptions
    def __init__(self, model: _Optional[str] = ..., adapter: _Optional[str] = ..., config: _Optional[_Union[EmbedConfig, _Mapping]] = ..., options: _Optional[_Union[_common_pb2.RequestOptions, _Mapping]] = ...) -> None: ...

class EmbedStreamItem(_message.Message):
    __slots__ = ("item_id", "input")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    input: _common_pb2.TextInput
    def __init__(self, item_id: _Optional[str] = ..., input: _Optional[_Union[_common_pb2.TextInput, _Mapping]] = ...) -> None: ...

class EmbedStreamRequest(_message.Message):
    __slots__ = ("config", "item")
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    ITEM_FIELD_NUMBER: _ClassVar[int]
    config: EmbedStreamConfig
    item: EmbedStreamItem
    def __init__(self, config: _Optional[_Union[EmbedStreamConfig, _Mapping]] = ..., item: _Optional[_Union[EmbedStreamItem, _Mapping]] = ...) -> None: ...

class EmbedStreamItemResult(_message.Message):
    __slots__ = ("item_id", "result")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    result: EmbedResult
    def __init__(self, item_id: _Optional[str] = ..., result: _Optional[_Union[EmbedResult, _Mapping]] = ...) -> None: ...

class EmbedStreamSummary(_message.Message):
    __slots__ = ("succeeded_count", "failed_count", "usage", "telemetry")
    SUCCEEDED_COUNT_FIELD_NUMBER: _ClassVar[int]
    FAILED_COUNT_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    TELEMETRY_FIELD_NUMBER: _ClassVar[int]
    succeeded_count: int
    failed_count: int
    usage: _common_pb2.Usage
    telemetry: _common_pb2.Telemetry
    def __init__(self, succeeded_count: _Optional[int] = ..., failed_count: _Optional[int] = ..., usage: _Optional[_Union[_common_pb2.Usage, _Mapping]] = ..., telemetry: _Optional[_Union[_common_pb2.Telemetry, _Mapping]] = ...) -> None: ...

class EmbedStreamResponse(_message.Message):
    __slots__ = ("started", "item", "summary")
    STARTED_FIELD_NUMBER: _ClassVar[int]
    ITEM_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    started: _common_pb2.Provenance
    item: EmbedStreamItemResult
    summary: EmbedStreamSummary
    def __init__(self, started: _Optional[_Union[_common_pb2.Provenance, _Mapping]] = ..., item: _Optional[_Union[EmbedStreamItemResult, _Mapping]] = ..., summary: _Optional[_Union[EmbedStreamSummary, _Mapping]] = ...) -> None: ...
