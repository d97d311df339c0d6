import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.rpc import status_pb2 as _status_pb2
from stretto.v1 import common_pb2 as _common_pb2
from stretto.v1 import generation_pb2 as _generation_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ModelState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODEL_STATE_UNSPECIFIED: _ClassVar[ModelState]
    MODEL_STATE_LOADING: _ClassVar[ModelState]
    MODEL_STATE_WARMING: _ClassVar[ModelState]
    MODEL_STATE_READY: _ClassVar[ModelState]
    MODEL_STATE_DRAINING: _ClassVar[ModelState]
    MODEL_STATE_UNLOADED: _ClassVar[ModelState]
    MODEL_STATE_FAILED: _ClassVar[ModelState]

class ModelTask(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODEL_TASK_UNSPECIFIED: _ClassVar[ModelTask]
    MODEL_TASK_GENERATE: _ClassVar[ModelTask]
    MODEL_TASK_SCORE: _ClassVar[ModelTask]
    MODEL_TASK_EMBED: _ClassVar[ModelTask]
    MODEL_TASK_EMBED_TOKENS: _ClassVar[ModelTask]
    MODEL_TASK_EMBED_SPARSE: _ClassVar[ModelTask]
    MODEL_TASK_CLASSIFY: _ClassVar[ModelTask]
    MODEL_TASK_TAG: _ClassVar[ModelTask]
    MODEL_TASK_ANSWER: _ClassVar[ModelTask]
    MODEL_TASK_RANK: _ClassVar[ModelTask]
    MODEL_TASK_FILL_MASK: _ClassVar[ModelTask]

class AdapterType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ADAPTER_TYPE_UNSPECIFIED: _ClassVar[AdapterType]
    ADAPTER_TYPE_LORA: _ClassVar[AdapterType]
    ADAPTER_TYPE_PROMPT_TUNING: _ClassVar[AdapterType]
    ADAPTER_TYPE_PREFIX_TUNING: _ClassVar[AdapterType]
MODEL_STATE_UNSPECIFIED: ModelState
MODEL_STATE_LOADING: ModelState
MODEL_STATE_WARMING: ModelState
MODEL_STATE_READY: ModelState
MODEL_STATE_DRAINING: ModelState
MODEL_STATE_UNLOADED: ModelState
MODEL_STATE_FAILED: ModelState
MODEL_TASK_UNSPECIFIED: ModelTask
MODEL_TASK_GENERATE: ModelTask
MODEL_TASK_SCORE: ModelTask
MODEL_TASK_EMBED: ModelTask
MODEL_TASK_EMBED_TOKENS: ModelTask
MODEL_TASK_EMBED_SPARSE: ModelTask
MODEL_TASK_CLASSIFY: ModelTask
MODEL_TASK_TAG: ModelTask
MODEL_TASK_ANSWER: ModelTask
MODEL_TASK_RANK: ModelTask
MODEL_TASK_FILL_MASK: ModelTask
ADAPTER_TYPE_UNSPECIFIED: AdapterType
ADAPTER_TYPE_LORA: AdapterType
ADAPTER_TYPE_PROMPT_TUNING: AdapterType
ADAPTER_TYPE_PREFIX_TUNING: AdapterType

class Adapter(_message.Message):
    __slots__ = ("id", "type", "version", "rank", "virtual_token_count", "source")
    ID_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    VIRTUAL_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    id: str
    type: AdapterType
    version: str
    rank: int
    virtual_token_count: int
    source: str
    def __init__(self, id: _Optional[str] = ..., type: _Optional[_Union[AdapterType, str]] = ..., version: _Optional[str] = ..., rank: _Optional[int] = ..., virtual_token_count: _Optional[int] = ..., source: _Optional[str] = ...) -> None: ...

class Label(_message.Message):
    __slots__ = ("id", "name")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    id: int
    name: str
    def __init__(self, id: _Optional[int] = ..., name: _Optional[str] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("id", "aliases", "version", "state", "architecture", "tasks", "parameter_count", "dtype", "quantization", "device", "numerics", "vocab_size", "max_input_tokens", "max_output_tokens", "default_overflow_policy", "has_chat_template", "eos_token_ids", "bos_token_id", "embedding_dimensions", "matryoshka_dimensions", "default_pooling", "default_normalize", "prompts", "labels", "adapters", "weight_bytes", "kv_cache_bytes", "kv_cache_tokens", "load_time", "training_run", "error", "default_sampling")
    class PromptsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    PARAMETER_COUNT_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    QUANTIZATION_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    NUMERICS_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_OVERFLOW_POLICY_FIELD_NUMBER: _ClassVar[int]
    HAS_CHAT_TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    EOS_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    BOS_TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    MATRYOSHKA_DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_POOLING_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_NORMALIZE_FIELD_NUMBER: _ClassVar[int]
    PROMPTS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_BYTES_FIELD_NUMBER: _ClassVar[int]
    KV_CACHE_BYTES_FIELD_NUMBER: _ClassVar[int]
    KV_CACHE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    LOAD_TIME_FIELD_NUMBER: _ClassVar[int]
    TRAINING_RUN_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_SAMPLING_FIELD_NUMBER: _ClassVar[int]
    id: str
    aliases: _containers.RepeatedScalarFieldContainer[str]
    version: str
    state: ModelState
    architecture: str
    tasks: _containers.RepeatedScalarFieldContainer[ModelTask]
    parameter_count: int
    dtype: str
    quantization: str
    device: str
    numerics: _common_pb2.Numerics
    vocab_size: int
    max_input_tokens: int
    max_output_tokens: int
    default_overflow_policy: _common_pb2.OverflowPolicy
    has_chat_template: bool
    eos_token_ids: _containers.RepeatedScalarFieldContainer[int]
    bos_token_id: int
    embedding_dimensions: int
    matryoshka_dimensions: _containers.RepeatedScalarFieldContainer[int]
    default_pooling: _common_pb2.PoolingType
    default_normalize: bool
    prompts: _containers.ScalarMap[str, str]
    labels: _containers.RepeatedCompositeFieldContainer[Label]
    adapters: _containers.RepeatedCompositeFieldContainer[Adapter]
    weight_bytes: int
    kv_cache_bytes: int
    kv_cache_tokens: int
    load_time: _timestamp_pb2.Timestamp
    training_run: str
    error: _status_pb2.Status
    default_sampling: _generation_pb2.SamplingConfig
    def __init__(self, id: _Optional[str] = ..., aliases: _Optional[_Iterable[str]] = ..., version: _Optional[str] = ..., state: _Optional[_Union[ModelState, str]] = ..., architecture: _Optional[str] = ..., tasks: _Optional[_Iterable[_Union[ModelTask, str]]] = ..., parameter_count: _Optional[int] = ..., dtype: _Optional[str] = ..., quantization: _Optional[str] = ..., device: _Optional[str] = ..., numerics: _Optional[_Union[_common_pb2.Numerics, str]] = ..., vocab_size: _Optional[int] = ..., max_input_tokens: _Optional[int] = ..., max_output_tokens: _Optional[int] = ..., default_overflow_policy: _Optional[_Union[_common_pb2.OverflowPolicy, str]] = ..., has_chat_template: bool = ..., eos_token_ids: _Optional[_Iterable[int]] = ..., bos_token_id: _Optional[int] = ..., embedding_dimensions: _Optional[int] = ..., matryoshka_dimensions: _Optional[_Iterable[int]] = ..., default_pooling: _Optional[_Union[_common_pb2.PoolingType, str]] = ..., default_normalize: bool = ..., prompts: _Optional[_Mapping[str, str]] = ..., labels: _Optional[_Iterable[_Union[Label, _Mapping]]] = ..., adapters: _Optional[_Iterable[_Union[Adapter, _Mapping]]] = ..., weight_bytes: _Optional[int] = ..., kv_cache_bytes: _Optional[int] = ..., kv_cache_tokens: _Optional[int] = ..., load_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., training_run: _Optional[str] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., default_sampling: _Optional[_Union[_generation_pb2.SamplingConfig, _Mapping]] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models", "next_page_token")
    MODELS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    next_page_token: str
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: Model
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...
