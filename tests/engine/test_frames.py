"""Frames carry any pile of messages in pieces of bounded size, both ways at once, and nothing in them is executed."""

import socket
import threading

import msgspec

from stretto.engine.frames import FRAME_BYTES, LENGTH, frames, read_frame
from stretto.engine.messages import Account, Cancel, Command, Draw, Event, Generate, Token, Vector

ACCOUNT = Account(queue_seconds=0.0, prefill_seconds=0.0, decode_seconds=0.0)


def vectors(count: int, size: int) -> list[Event]:
    return [Vector(id=i, index=0, vector=bytes(size), account=ACCOUNT) for i in range(count)]


def test_a_large_pile_of_vectors_is_cut_into_frames_below_the_limit_in_order() -> None:
    pile = vectors(1000, 6000)
    parts = list(frames(pile, msgspec.msgpack.Encoder()))
    assert len(parts) > 5
    assert all(len(part) <= FRAME_BYTES + LENGTH.size for part in parts)
    decoder = msgspec.msgpack.Decoder(list[Event])
    assert [event for part in parts for event in decoder.decode(part[LENGTH.size :])] == pile


def test_every_kind_of_message_comes_back_as_it_was_sent() -> None:
    draw = Draw(temperature=0.5, seed=2**64 - 1)
    commands: list[Command] = [
        Generate(id=1, model="m", prompt=[1, 2], draw=draw, max_tokens=3),
        Cancel(id=1, sent=0.5),
    ]
    events: list[Event] = [Token(id=1, candidate=0, token=5, logprob=-0.25, top=[(5, -0.25)], account=ACCOUNT)]
    encode = msgspec.msgpack.encode
    assert msgspec.msgpack.decode(encode(commands), type=list[Command]) == commands
    assert msgspec.msgpack.decode(encode(events), type=list[Event]) == events


def test_both_ends_may_write_much_more_than_the_sockets_hold_before_either_reads() -> None:
    """What deadlocks a pipe when each end waits for the other to read; reader and writer threads don't."""
    left, right = socket.socketpair()
    pile, encoder = vectors(200, 40_000), msgspec.msgpack.Encoder()

    def write(end: socket.socket) -> None:
        for part in frames(pile, encoder):
            end.sendall(part)
        end.shutdown(socket.SHUT_WR)

    writers = [threading.Thread(target=write, args=(end,)) for end in (left, right)]
    for writer in writers:
        writer.start()
    counts = []
    for end in (left, right):
        count = 0
        while (body := read_frame(end)) is not None:
            count += len(msgspec.msgpack.decode(body, type=list[Event]))
        counts.append(count)
    for writer in writers:
        writer.join()
    left.close()
    right.close()
    assert counts == [200, 200]


def test_an_end_that_closes_without_reading_what_was_sent_is_the_end_of_the_stream() -> None:
    """The kernel says 'reset' then, not 'end of file'; an engine that took it for an error would outlive its server."""
    left, right = socket.socketpair()
    left.sendall(b"never read")
    right.close()
    assert read_frame(left) is None
    left.close()
