"""One JSON object a line, with the names of the wire format's messages; every field is there, zero or not."""

import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from stretto.client import StrettoError


def print_message(message: "Message") -> None:
    from google.protobuf.json_format import MessageToDict

    print_object(MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True))


def print_refusal(error: "StrettoError", name: str, *, as_json: bool) -> None:
    """An item that was refused among others: told to people, and in its line of JSON as the wire says it of a batch."""
    print(f"error: {name}: {error.message}", file=sys.stderr, flush=True)
    if as_json:
        print_object({"error": {"code": error.code.value[0], "message": error.message}})


def print_object(value: dict[str, object]) -> None:
    print(json.dumps(value, ensure_ascii=False, allow_nan=False), file=sys.stdout, flush=True)
