"""TokenizerService: wire to engine and back, nothing else. Its work takes no place in the engine's queue."""

import asyncio
import hashlib
from collections.abc import Sequence

from stretto.engine.core import Engine
from stretto.engine.tokenizing import Tokenized, TokenizerFile
from stretto.server import tokenizing_reading
from stretto.server.call import Call
from stretto.server.choice import the_only
from stretto.server.places import Places
from stretto.v1 import tokenizer_pb2 as pb
from stretto.v1 import tokenizer_pb2_grpc as rpc

MAX_CALLS = 32  # those that wait for a thread included; each holds its request
MAX_DOWNLOADS = 8
CHUNK_BYTES = 64 * 1024


class TokenizerService(rpc.TokenizerServiceServicer):
    def __init__(self, engine: Engine, *, max_inputs: int, max_response_bytes: int) -> None:
        self._engine = engine
        self._max_inputs = max_inputs
        self._max_response_bytes = max_response_bytes
        self._calls = Places(MAX_CALLS, "Tokenize and Detokenize calls")
        self._downloads = Places(MAX_DOWNLOADS, "downloads of tokenizers")

    async def Tokenize(self, request: pb.TokenizeRequest, call: Call) -> pb.TokenizeResponse:
        card = the_only(self._engine, request.model)
        call.model = card.name
        with self._calls.one():
            asked = tokenizing_reading.tokenize_call(request, card.name, max_inputs=self._max_inputs)
            reply = await self._engine.tokenize(asked, _written)
        reply.max_input_tokens = card.max_input_tokens
        return reply

    async def Detokenize(self, request: pb.DetokenizeRequest, call: Call) -> pb.DetokenizeResponse:
        card = the_only(self._engine, request.model)
        call.model = card.name
        with self._calls.one():
            asked = tokenizing_reading.detokenize_call(
                request, card.name, max_inputs=self._max_inputs, max_bytes=self._max_response_bytes
            )
            return pb.DetokenizeResponse(texts=await self._engine.detokenize(asked))

    async def DownloadTokenizer(self, request: pb.DownloadTokenizerRequest, call: Call) -> None:
        card = the_only(self._engine, request.model)
        call.model = card.name
        with self._downloads.one():
            files = await self._engine.tokenizer_files(card.name)
            await call.admit()  # where it came with a first chunk that nobody reads, no status could be sent
            for file in files:
                await _send(file, call)


def _written(results: Sequence[Tokenized]) -> pb.TokenizeResponse:
    """Made in a thread, span by span: a list of them all would be copied in one go, and hold the interpreter lock."""
    reply = pb.TokenizeResponse()
    for each in results:
        written = reply.results.add(token_count=each.count, token_ids=each.ids, pieces=each.pieces)
        for start, end in each.offsets:
            written.offsets.add(start=start, end=end)
    return reply


async def _send(file: TokenizerFile, call: Call) -> None:
    """One file in chunks, the last of them with the digest of all. An empty file is one empty chunk."""
    digest = hashlib.sha256()
    with await asyncio.to_thread(file.open) as source:
        chunk = await asyncio.to_thread(source.read, CHUNK_BYTES)
        while True:
            digest.update(chunk)
            following = await asyncio.to_thread(source.read, CHUNK_BYTES)
            done = "" if following else digest.hexdigest()
            await call.write(pb.DownloadTokenizerResponse(file_name=file.name, chunk=chunk, sha256=done))
            if done:
                return
            chunk = following
