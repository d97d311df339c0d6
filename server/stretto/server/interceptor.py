"""
Around every request: its bytes, its id, its errors, its log line and its counts, in one place.

The generated servicers stay as they are: their (de)serialisers are taken off the handler and used here, so that
malformed bytes are INVALID_ARGUMENT, and a service may answer with any message that has the right bytes.
"""

import asyncio
import math
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NoReturn, TypeAlias, cast

import grpc
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError, Message
from structlog.typing import FilteringBoundLogger

from stretto.engine.errors import StrettoError
from stretto.server.auth import Tokens
from stretto.server.call import Call
from stretto.server.errors import (
    MalformedMessage,
    Unauthenticated,
    code_of,
    retry_seconds,
    status_of,
    unexpected,
)
from stretto.server.gate import Gate
from stretto.server.incoming import Incoming
from stretto.server.metrics import Metrics
from stretto.server.rates import Rates, client_of
from stretto.server.reading import check_request_id, options_of
from stretto.server.refusals import refuse_unknown_fields

OURS = "/stretto."
HEALTH = "/grpc.health.v1.Health/"  # needs no token: who asks for it, as Kubernetes, has none to send
TASKS = {
    "/stretto.v1.GenerationService/Generate": "generate",
    "/stretto.v1.GenerationService/GenerateStream": "generate",
    "/stretto.v1.GenerationService/Score": "score",
    "/stretto.v1.EmbeddingService/Embed": "embed",
    "/stretto.v1.EmbeddingService/EmbedStream": "embed",
}

# Clients size their messages by it, and wait for a server with it: it passes the gate before and after its hours.
UNGATED = "GetServerInfo"

# A caller's deadline ends the call there first, and the cancel arrives here a moment before our own clock says so.
DEADLINE_SLACK_SECONDS = 0.1

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # generic in the stubs only
Method = Callable[[Any, Call], Awaitable[Message | None]]
Decode = Callable[[bytes], Message]
Serve = Callable[[], Awaitable[bytes | None]]


class Interceptor(grpc.aio.ServerInterceptor):
    """Health passes untouched, reflection past the tokens; everything of `stretto.` is answered through here."""

    def __init__(
        self,
        gate: Gate,
        metrics: Metrics,
        logger: FilteringBoundLogger,
        *,
        tokens: Tokens | None,
        rates: Rates,
        stall_seconds: float,
        max_response_bytes: int,
        log_prompts: bool,
    ) -> None:
        self._tokens = tokens
        self._rates = rates
        self._gate = gate
        self._metrics = metrics
        self._logger = logger
        self._stall_seconds = stall_seconds
        self._max_response_bytes = max_response_bytes
        self._log_prompts = log_prompts

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method.startswith(HEALTH):
            return handler
        client = ""
        if self._tokens is not None:
            try:
                client = self._tokens.name_of(handler_call_details.invocation_metadata)
            except Unauthenticated as error:
                return self._refusing(method, error)
        if not method.startswith(OURS):
            return handler
        decode = cast(Decode, handler.request_deserializer)
        if handler.request_streaming:
            assert handler.response_streaming, f"{method}: no single answer to a stream is served yet"
            converse = cast(Method, handler.stream_stream)

            async def conversation(_: Any, context: Any) -> None:  # grpc's own iterator of messages has no use here
                call = self._call(method, context, client=client, streaming=True)
                await self._answer(call, lambda: self._streamed(call, converse, decode))

            return grpc.stream_stream_rpc_method_handler(conversation)
        serve = cast(Method, handler.unary_stream if handler.response_streaming else handler.unary_unary)

        async def answer(data: bytes, context: Any) -> bytes | None:
            call = self._call(method, context, client=client, streaming=handler.response_streaming)
            return await self._answer(call, lambda: self._served(call, serve, decode, data))

        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(answer)
        return grpc.unary_unary_rpc_method_handler(answer)

    async def _answer(self, call: Call, serve: Serve) -> bytes | None:
        try:
            reply = await serve()
        except StrettoError as error:
            failure = error
        except asyncio.CancelledError:  # the caller left, its deadline passed, or the server stops
            self._end(call, "DEADLINE_EXCEEDED" if _expired(call) else "CANCELLED", None)
            raise
        except Exception:
            failure = unexpected()
            self._logger.exception("unexpected error", id=call.request_id, error_id=failure.metadata["error_id"])
        else:
            self._end(call, "OK", None)
            call.context.set_trailing_metadata((("x-request-id", call.request_id),))
            return reply
        await self._fail(call, failure)

    def _refusing(self, method: str, why: StrettoError) -> "Handler":
        """A handler of any method, since what it takes is not read: it refuses."""

        async def refuse(_requests: object, context: Any) -> None:
            await self._fail(self._call(method, context, client="", streaming=False), why)

        return grpc.stream_stream_rpc_method_handler(refuse)

    def _call(self, method: str, context: Any, *, client: str, streaming: bool) -> Call:
        received = time.monotonic()
        remaining = context.time_remaining()
        self._metrics.observe_start(method)
        return Call(
            context=context,
            path=method,
            task=TASKS.get(method, ""),
            request_id=uuid.uuid4().hex,
            received=received,
            deadline=None if remaining is None else received + remaining,
            stall_seconds=self._stall_seconds,
            max_response_bytes=self._max_response_bytes,
            client=client,
            streaming=streaming,
            running=asyncio.current_task(),
        )

    async def _served(self, call: Call, serve: Method, decode: Decode, data: bytes) -> bytes | None:
        request = self._read(call, decode, data)
        with self._inside(call, num_bytes=len(data)):
            reply = await serve(request, call)
        return None if reply is None else call.sendable(reply)

    async def _streamed(self, call: Call, serve: Method, decode: Decode) -> None:
        """A stream passes the gate before its first message: one that never sends any is refused and drained too.

        Its client is charged for its tokens when it ends, and they are counted.
        """

        async def receive() -> Message | None:
            data = await call.context.read()
            return None if data is grpc.aio.EOF else self._read(call, decode, data)

        with self._inside(call, num_bytes=0):
            await serve(Incoming(await receive(), receive), call)

    def _read(self, call: Call, decode: Decode, data: bytes) -> Message:
        """One message of the caller's; the request id in it, where it is a good one, stands for the server's."""
        try:
            request = decode(data)
        except DecodeError:
            raise MalformedMessage(
                f"the {len(data)} bytes of this {call.method} request are not the message that it takes."
            ) from None
        refuse_unknown_fields(request)
        options = options_of(request)
        if options is not None and options.request_id:
            check_request_id(options.request_id)
            call.request_id = options.request_id
        if self._log_prompts:
            sent = MessageToDict(request, preserving_proto_field_name=True)
            self._logger.info("request as sent", id=call.request_id, method=call.method, sent=sent)
        return request

    @contextmanager
    def _inside(self, call: Call, *, num_bytes: int) -> Iterator[None]:
        """Past the gate and within what its client may ask: a token a byte, until an answer has counted them."""
        passing = nullcontext() if call.method == UNGATED else self._gate.passing(call)
        client = call.client or client_of(call.context.peer())
        tokens = num_bytes if call.task else 0
        with passing, self._rates.admitted(client, tokens=tokens, streaming=call.streaming) as charge:
            try:
                yield
            except StrettoError as error:
                if retry_seconds(error) is not None:  # it was refused for no fault of its own, and may come again
                    charge.correct(0)
                raise
            finally:  # a stream that is cancelled has had its tokens too
                if call.usage is not None:
                    charge.correct(call.usage.prompt_tokens)

    async def _fail(self, call: Call, error: StrettoError) -> NoReturn:
        """Count first, then send the status, which waits for a reader: one that stalls is not waited for either.

        What is given up here grpc still keeps, and sends should the caller read on.
        """
        self._end(call, code_of(error).name, error)
        try:
            async with asyncio.timeout(self._stall_seconds):
                await self._abort(call, error)
        except TimeoutError:
            raise asyncio.CancelledError from None

    async def _abort(self, call: Call, error: StrettoError) -> NoReturn:
        status = status_of(error)
        trailing = [("x-request-id", call.request_id), ("grpc-status-details-bin", status.SerializeToString())]
        if (seconds := retry_seconds(error)) is not None:
            trailing.append(("grpc-retry-pushback-ms", str(math.ceil(seconds * 1000))))
        await call.context.abort(code_of(error), status.message, tuple(trailing))
        raise AssertionError("abort returned")

    def _end(self, call: Call, code: str, error: StrettoError | None) -> None:
        """Count the request and write its line: figures and names of ours, nothing that the caller wrote but the id."""
        self._metrics.observe_end(call, code, error)
        facts: dict[str, object] = {"id": call.request_id, "method": call.method, "code": code}
        if error is not None:
            facts["reason"] = error.reason
        if call.client:
            facts["client"] = call.client
        if call.model:
            facts["model"] = call.model
        if call.task:
            facts["task"] = call.task
        if call.usage:
            facts |= {"tokens_in": call.usage.prompt_tokens, "cached": call.usage.cached_prompt_tokens}
            facts["tokens_out"] = call.usage.completion_tokens
        elif call.reports:  # an answer that was left: what it had by then
            facts["tokens_in"] = sum(report.token_count for report in call.reports)
            facts["tokens_out"] = call.num_generated
        if call.telemetry:
            facts["queue_ms"] = _milliseconds(call.telemetry.queue_seconds)
            if call.telemetry.first_token_seconds is not None:
                facts["first_token_ms"] = _milliseconds(call.telemetry.first_token_seconds)
        facts["total_ms"] = _milliseconds(time.monotonic() - call.received)
        self._logger.info("request", **facts)


def _expired(call: Call) -> bool:
    return call.deadline is not None and time.monotonic() >= call.deadline - DEADLINE_SLACK_SECONDS


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 2)
