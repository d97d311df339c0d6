"""Proves that the twin of a reply is the published message on the wire, byte for byte, both ways."""

import numpy as np

from stretto.server.twin import twin_class
from stretto.v1 import common_pb2, embedding_pb2
from stretto.v1.embedding_pb2 import EmbedResponse


def published(vectors):
    return EmbedResponse(
        request_id="r",
        results=[
            embedding_pb2.EmbedResult(
                embedding=embedding_pb2.Embedding(
                    vectors=[
                        embedding_pb2.DenseVector(
                            values=vector.tolist(),
                            encoding=embedding_pb2.EMBEDDING_ENCODING_FLOAT32,
                            dimensions=len(vector),
                        )
                    ],
                    input=common_pb2.InputReport(token_count=3),
                )
            )
            for vector in vectors
        ],
        usage=common_pb2.Usage(prompt_tokens=5),
    )


def twin(vectors):
    made = twin_class("EmbedResponse")(request_id="r")
    for vector in vectors:
        written = made.results.add().embedding
        written.vectors.add(values=vector.tobytes(), encoding=1, dimensions=len(vector))
        written.input.token_count = 3
    made.usage.prompt_tokens = 5
    return made


def vectors():
    return np.random.default_rng(0).standard_normal((5, 33)).astype("<f4")


def test_what_the_twin_writes_the_published_message_reads():
    read = EmbedResponse.FromString(twin(vectors()).SerializeToString())
    assert read == published(vectors())
    values = [result.embedding.vectors[0].values for result in read.results]
    assert (np.array(values, "<f4") == vectors()).all()


def test_both_write_the_same_bytes():
    written = [message.SerializeToString(deterministic=True) for message in (twin(vectors()), published(vectors()))]
    assert written[0] == written[1]


def test_what_the_published_message_writes_the_twin_reads():
    read = twin_class("EmbedResponse").FromString(published(vectors()).SerializeToString())
    assert b"".join(result.embedding.vectors[0].values for result in read.results) == vectors().tobytes()


def test_a_result_of_a_stream_is_read_as_the_published_message_too():
    (vector, *_) = vectors()
    made = twin_class("EmbedStreamResponse")()
    made.item.item_id = "mine"
    made.item.result.embedding.vectors.add(values=vector.tobytes(), encoding=1, dimensions=len(vector))
    read = embedding_pb2.EmbedStreamResponse.FromString(made.SerializeToString())
    assert (read.item.item_id, list(read.item.result.embedding.vectors[0].values)) == ("mine", vector.tolist())


def test_the_two_differ_in_nothing_but_the_one_field():
    ours, theirs = twin_class("EmbedResponse").DESCRIPTOR.file, embedding_pb2.DESCRIPTOR
    assert ours.message_types_by_name.keys() == theirs.message_types_by_name.keys()
    for name, message in theirs.message_types_by_name.items():
        for field in message.fields:
            other = ours.message_types_by_name[name].fields_by_name[field.name]
            same = (other.number, other.type, other.is_repeated) == (field.number, field.type, field.is_repeated)
            assert same == ((name, field.name) != ("DenseVector", "values"))
