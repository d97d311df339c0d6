"""Proves that every encoding gives back the float32 vector, as closely as its bits allow, by the rule of the wire."""

import numpy as np
import pytest
import torch

from stretto.engine.errors import InvalidRequest
from stretto.server.encodings import ENCODINGS
from stretto.v1 import embedding_pb2 as pb


def vectors():
    dice = np.random.default_rng(0)
    unit = dice.standard_normal((4, 384)).astype("<f4")
    return [
        *(unit / np.linalg.norm(unit, axis=1, keepdims=True)),
        (dice.standard_normal(33) * 100).astype("<f4"),
        np.linspace(5, 6, 7, dtype="<f4"),
        np.zeros(9, "<f4"),
        np.full(9, 0.3, "<f4"),
        np.full(9, -2.5, "<f4"),
        np.array([3.0], "<f4"),
        np.array([1e-42, 0, -1e-44], "<f4"),
    ]


def encoded(number, vector):
    return ENCODINGS[number].encode(vector)


@pytest.mark.parametrize("vector", vectors())
def test_float32_is_the_vector_itself(vector):
    assert encoded(pb.EMBEDDING_ENCODING_FLOAT32, vector).data == vector.tobytes()


@pytest.mark.parametrize("vector", vectors())
def test_float16_is_rounded_to_the_nearest_half(vector):
    data = encoded(pb.EMBEDDING_ENCODING_FLOAT16, vector).data
    expected = torch.from_numpy(vector.copy()).half()
    assert torch.equal(torch.frombuffer(bytearray(data), dtype=torch.float16), expected)


@pytest.mark.parametrize("vector", [*vectors(), np.array([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8 - 2**-20], "<f4")])
def test_bfloat16_is_rounded_as_torch_rounds(vector):
    data = encoded(pb.EMBEDDING_ENCODING_BFLOAT16, vector).data
    expected = torch.from_numpy(vector.copy()).bfloat16()
    assert torch.equal(torch.frombuffer(bytearray(data), dtype=torch.bfloat16), expected)


@pytest.mark.parametrize("vector", vectors())
@pytest.mark.parametrize(
    ("number", "kind"), [(pb.EMBEDDING_ENCODING_INT8, np.int8), (pb.EMBEDDING_ENCODING_UINT8, np.uint8)]
)
def test_eight_bits_are_within_half_a_step(number, kind, vector):
    got = encoded(number, vector)
    decoded = np.frombuffer(got.data, kind) * np.float64(got.scale) + got.offset
    assert len(decoded) == len(vector)
    assert np.abs(decoded - vector).max() <= got.scale / 2 + 1e-6 * np.abs(vector).max() + 1e-42
    assert got.scale <= 2 * np.abs(vector).max() / 127


def test_int8_keeps_zero_and_uint8_keeps_a_constant():
    vector = np.array([0.0, -3.0, 1.0], "<f4")
    got = encoded(pb.EMBEDDING_ENCODING_INT8, vector)
    assert (np.frombuffer(got.data, np.int8)[0], got.offset) == (0, 0.0)
    constant = encoded(pb.EMBEDDING_ENCODING_UINT8, np.full(3, -2.5, "<f4"))
    assert (constant.data, constant.scale, constant.offset) == (b"\0\0\0", 0.0, -2.5)


@pytest.mark.parametrize("vector", vectors())
def test_binary_is_one_bit_a_sign_packed_from_the_top_and_padded_with_zeros(vector):
    data = encoded(pb.EMBEDDING_ENCODING_BINARY, vector).data
    bits = [byte >> (7 - place) & 1 for byte in data for place in range(8)]
    assert bits[: len(vector)] == [int(value > 0) for value in vector]
    assert not any(bits[len(vector) :])


@pytest.mark.parametrize("number", ENCODINGS)
@pytest.mark.parametrize("vector", vectors())
def test_the_bytes_are_as_many_as_the_bound_of_a_reply_counts(number, vector):
    assert len(encoded(number, vector).data) == ENCODINGS[number].num_bytes(len(vector))


@pytest.mark.parametrize(
    ("number", "value"), [(pb.EMBEDDING_ENCODING_FLOAT16, -65520.0), (pb.EMBEDDING_ENCODING_BFLOAT16, 3.4e38)]
)
def test_a_number_that_would_become_infinite_is_refused(number, value):
    with pytest.raises(InvalidRequest) as caught:
        encoded(number, np.array([1.0, value], "<f4"))
    assert caught.value.field == "config.encoding"


def test_every_encoding_of_the_wire_is_there():
    assert {*ENCODINGS} == {*pb.EmbeddingEncoding.values()} - {pb.EMBEDDING_ENCODING_UNSPECIFIED}
