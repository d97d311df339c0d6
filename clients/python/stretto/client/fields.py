"""Writes plain values into protobuf messages by path; what protobuf would refuse is refused naming field and value."""

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from stretto.client.errors import invalid
from stretto.client.options import paths, words

# Descriptors are typed Any below: protobuf has one class for them in Python and another in C.
# What protobuf takes for a field, for the message of a refusal.
WANTED: dict[int, str] = {
    FieldDescriptor.TYPE_STRING: "text that can be written as UTF-8",
    FieldDescriptor.TYPE_UINT32: "a whole number from 0 to 4294967295",
    FieldDescriptor.TYPE_INT32: "a whole number from -2147483648 to 2147483647",
    FieldDescriptor.TYPE_UINT64: "a whole number from 0 to 18446744073709551615",
    FieldDescriptor.TYPE_FLOAT: "a number",
    FieldDescriptor.TYPE_BOOL: "True or False",
}


def write_options(message: Message, kind: type, options: Mapping[str, Any], *, under: str = "") -> None:
    """Every option whose path begins with `under`, which is `message` itself."""
    for name, path in paths(kind).items():
        if name not in options or not path.startswith(under):
            continue
        *owners, field = path.removeprefix(under).split(".")
        owner = message
        for step in owners:
            owner = getattr(owner, step)
        value = options[name]
        kind_of = owner.DESCRIPTOR.fields_by_name[field]
        if kind_of.enum_type is not None:
            value = _number(kind_of.enum_type, value, words(kind, name), name)
        write(owner, field, value, path)


def write(message: Message, field: str, value: Any, path: str) -> None:
    """One field, whatever its kind; `path` is what a refusal calls it."""
    kind = message.DESCRIPTOR.fields_by_name[field]
    try:
        if kind.message_type is Duration.DESCRIPTOR:
            getattr(message, field).CopyFrom(_duration(value, path))
        elif kind.message_type is Struct.DESCRIPTOR:
            getattr(message, field).CopyFrom(_struct(value, path))
        elif kind.message_type is not None:  # a map
            getattr(message, field).update(dict(value))
        elif kind.is_repeated:
            getattr(message, field).extend([value] if isinstance(value, str) else value)
        else:
            setattr(message, field, value)
    except (TypeError, ValueError, OverflowError):  # UnicodeEncodeError, a lone surrogate, is a ValueError
        raise invalid(f"{path} must be {_wanted(kind)}; got {shown(value)}.", path) from None


def shown(value: object) -> str:
    """Short and printable, however long or odd the value is."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:80]}... ({len(text)} characters)"


def _wanted(kind: Any) -> str:
    if kind.message_type is not None and kind.message_type.GetOptions().map_entry:
        key, value = (_wanted(kind.message_type.fields_by_name[name]) for name in ("key", "value"))
        return f"a mapping whose keys are each {key} and whose values are each {value}"
    wanted = WANTED.get(kind.type, "something else")
    return f"a list, each of it {wanted}" if kind.is_repeated else wanted


def _number(enum: Any, word: object, allowed: Sequence[str], name: str) -> int:
    """ "mean" is POOLING_TYPE_MEAN, "end" is OVERFLOW_POLICY_TRUNCATE_END."""
    if word not in allowed:
        raise invalid(f"{name} must be one of {', '.join(allowed)}; got {shown(word)}.", name)
    ending = f"_{str(word).upper()}"
    prefix = enum.values[0].name.removesuffix("_UNSPECIFIED")
    names = (f"{prefix}{ending}", f"{prefix}_TRUNCATE{ending}")
    number: int = next(value.number for value in enum.values if value.name in names)
    return number


def _duration(seconds: object, path: str) -> Duration:
    if not (isinstance(seconds, int | float) and 0 <= seconds < 1e10):
        raise invalid(f"{path} must be a number of seconds, at least 0; got {shown(seconds)}.", path)
    whole = int(seconds)
    return Duration(seconds=whole, nanos=int((seconds - whole) * 1e9))


def _struct(values: Any, path: str) -> Struct:
    try:
        made = Struct()
        made.update(dict(values))
        return made
    except (ValueError, TypeError) as error:
        raise invalid(f"{path} is not plain JSON: {error}.", path) from None
