"""
The private twins of Embed's and EmbedStream's replies, whose vectors are `bytes` where the published ones are
`repeated float`.

A packed `repeated float` and a `bytes` field of little-endian float32 are the same bytes on the wire, and a numpy row
goes into `bytes` several hundred times faster. The twins are derived from the published descriptor, so that they cannot
fall behind it; their messages live in a pool of their own and mix with the published ones only as serialised bytes.
"""

from typing import Any

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from stretto.v1 import embedding_pb2

Field = descriptor_pb2.FieldDescriptorProto


def twin_class(name: str) -> Any:
    """The twin of a message of embedding.proto; `Any`, since it is made at run time and differs in `values` alone."""
    pool = DescriptorPool()
    published = embedding_pb2.DESCRIPTOR
    for dependency in _dependencies(published):
        pool.AddSerializedFile(dependency.serialized_pb)
    pool.Add(_with_bytes(published))
    return GetMessageClass(pool.FindMessageTypeByName(f"stretto.v1.{name}"))


def _dependencies(file: FileDescriptor) -> list[FileDescriptor]:
    """Every file that this one needs, each after those that it needs itself."""
    found: dict[str, FileDescriptor] = {}
    for needed in file.dependencies:
        found |= {inner.name: inner for inner in _dependencies(needed)}
        found[needed.name] = needed
    return list(found.values())


def _with_bytes(file: FileDescriptor) -> descriptor_pb2.FileDescriptorProto:
    copied = descriptor_pb2.FileDescriptorProto.FromString(file.serialized_pb)
    message = next(message for message in copied.message_type if message.name == "DenseVector")
    values = next(field for field in message.field if field.name == "values")
    assert (values.type, values.label) == (Field.TYPE_FLOAT, Field.LABEL_REPEATED)
    values.type = Field.TYPE_BYTES
    values.label = Field.LABEL_OPTIONAL
    values.ClearField("options")
    return copied
