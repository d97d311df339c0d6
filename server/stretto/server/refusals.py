"""
What a request may not ask for yet, field by field: a field that is accepted is honoured, the rest is refused by name.

Each row is a path from the request's root, and the values that change nothing and so are accepted. A test walks the
descriptors and sets every field that there is: it is in this table, or it changes what the engine is asked.
"""

from collections.abc import Mapping
from typing import Final

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from stretto.engine.errors import AdapterNotFound, InvalidRequest
from stretto.server.errors import MalformedMessage
from stretto.v1 import common_pb2

Neutral = tuple[object, ...]

OPTIONS: Final[Mapping[str, Neutral]] = {"options.fairness_key": ("",)}

GENERATE: Final[Mapping[str, Neutral]] = {
    "config.beam_search": (),
    "config.constraint": (),
    "config.speculation.enabled": (False,),
    "config.speculation.max_draft_tokens": (0,),
    **OPTIONS,
}

EMBED: Final[Mapping[str, Neutral]] = OPTIONS

# Values of enums that mean something to Embed alone, by the paths that other requests have.
EMBED_ONLY: Final[Mapping[str, frozenset[int]]] = {
    "overflow_policy": frozenset({common_pb2.OVERFLOW_POLICY_CHUNK}),
}


def refuse(request: Message, table: Mapping[str, Neutral]) -> None:
    """Raise for the first field of the table that is set to more than its neutral values."""
    for path, neutral in table.items():
        owner, name = _owner(request, path)
        if owner is None or not _is_set(owner, name):
            continue
        value = getattr(owner, name)
        if any(value == accepted for accepted in neutral):
            continue
        only = f"; {path} may only be {_said(owner, name, neutral[-1])}, or left out" if neutral else ""
        raise InvalidRequest(f"{path} is not supported yet{only}.", field=path)


def refuse_unknown_fields(request: Message) -> None:
    """Raise where a message holds what this server has no field for: a newer client's wish, or a wrong wire type."""
    before, unknown = request.ByteSize(), UnknownFieldSet(request)
    numbers = [unknown[i].field_number for i in range(min(len(unknown), 8))]
    request.DiscardUnknownFields()
    if (lost := before - request.ByteSize()) == 0:
        return
    raise MalformedMessage(
        f"{lost} bytes of this {request.DESCRIPTOR.name} are in fields that this server does not know"
        + (f": {', '.join(map(str, numbers))}." if numbers else ", in one of its messages.")
    )


def refuse_adapter(adapter: str) -> None:
    if adapter:
        raise AdapterNotFound(
            f"no adapter {adapter!r} is loaded: this server does not load adapters yet. Leave `adapter` empty.",
            field="adapter",
            metadata={"adapter": adapter},
        )


def refuse_unknown(owner: Message, name: str, path: str) -> None:
    """Raise for an enum's number that names nothing, or nothing that this kind of request can have."""
    field = owner.DESCRIPTOR.fields_by_name[name]
    number: int = getattr(owner, name)
    assert field.enum_type is not None
    known = field.enum_type.values_by_number.get(number)
    if known is None:
        raise InvalidRequest(f"{path} is {number}, which names no {field.enum_type.name}.", field=path)
    if number in EMBED_ONLY.get(path, ()):
        raise InvalidRequest(f"{path} is {known.name}, which is for Embed alone.", field=path)


def _owner(request: Message, path: str) -> tuple[Message | None, str]:
    """The message that holds the last field of a path, or None where a message on the way is absent."""
    *way, name = path.split(".")
    owner = request
    for step in way:
        if not owner.HasField(step):
            return None, name
        owner = getattr(owner, step)
    return owner, name


def _is_set(owner: Message, name: str) -> bool:
    field = owner.DESCRIPTOR.fields_by_name[name]
    if field.has_presence:
        return owner.HasField(name)
    return getattr(owner, name) != field.default_value if not field.is_repeated else bool(getattr(owner, name))


def _said(owner: Message, name: str, value: object) -> str:
    field = owner.DESCRIPTOR.fields_by_name[name]
    if field.enum_type is not None and isinstance(value, int):
        return str(field.enum_type.values_by_number[value].name)
    return f"{value:g}" if isinstance(value, float) else repr(value)
