"""
A small server that speaks the whole wire format and computes answers anyone can check by hand.

It is another server, not a part of ours: the answer to a text is its words in reverse, one token a word, whose id is
the length of the word; the vector of a text is (its characters, its words, 1). Texts that begin with "fail:", "flaky:",
"endless" or "cut" make it misbehave as the tests need.
"""

import os
import pty
import queue
import select
import subprocess
import sys
import termios
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from stretto.v1 import (
    common_pb2,
    embedding_pb2,
    embedding_pb2_grpc,
    generation_pb2,
    generation_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
)

SEED = 2**64 - 1


def packed(detail: Message) -> any_pb2.Any:
    made = any_pb2.Any()
    made.Pack(detail)
    return made


def status(code: str, reason: str, message: str) -> status_pb2.Status:
    """A status with every detail that the API promises somewhere."""
    info = error_details_pb2.ErrorInfo(reason=reason, domain="stretto", metadata={"max": "64"})
    violation = error_details_pb2.BadRequest.FieldViolation(field="config.sampling.top_p", description=message)
    return status_pb2.Status(
        code=grpc.StatusCode[code].value[0],
        message=message,
        details=[
            packed(info),
            packed(error_details_pb2.BadRequest(field_violations=[violation])),
            packed(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(nanos=250_000_000))),
        ],
    )


class Standin(
    generation_pb2_grpc.GenerationServiceServicer,
    embedding_pb2_grpc.EmbeddingServiceServicer,
    model_pb2_grpc.ModelServiceServicer,
):
    """`requests` are those that came, `attempts` count them by id, `left` receives the id of a stream that was left."""

    def __init__(self) -> None:
        self.target = ""
        self.requests: list[Message] = []
        self.metadata: list[dict[str, str]] = []
        self.attempts: Counter[str] = Counter()
        self.left: queue.Queue[str] = queue.Queue()
        self.stopping = threading.Event()
        self.die: Callable[[], object] = self.stopping.set

    def Generate(self, request, context):
        self._note(request, context, request.options.request_id)
        text = self._text(request)
        self._misbehave(text, request, context)
        words = text.split()[::-1]
        return generation_pb2.GenerateResponse(
            request_id=request.options.request_id,
            candidates=[
                generation_pb2.Candidate(
                    index=index,
                    text=" ".join(words),
                    token_ids=[len(word) for word in words],
                    finish_reason=generation_pb2.FINISH_REASON_STOP_STRING,
                    stop_string="!",
                    cumulative_logprob=-1.5,
                    token_count=len(words),
                )
                for index in range(request.config.sampling.candidate_count or 1)
            ],
            input=common_pb2.InputReport(token_count=len(words), truncated_tokens=2),
            usage=self._usage(words),
            telemetry=self._telemetry(request),
            seed=SEED,
        )

    def GenerateStream(self, request, context):
        request = request.request
        name = request.options.request_id
        self._note(request, context, name)
        text = self._text(request)
        self._misbehave(text, request, context)
        gone = threading.Event()
        context.add_callback(lambda: (self.left.put(name), gone.set()))
        event = generation_pb2.GenerateStreamResponse
        started = generation_pb2.GenerationStarted(
            request_id=name, input=common_pb2.InputReport(token_count=3), seed=SEED
        )
        yield event(started=started)
        words = text.split()[::-1]
        for index, word in enumerate(words):
            yield event(delta=self._delta(words, index, jump=text.startswith("jump")))
            if word == "endless":
                while not (gone.is_set() or self.stopping.is_set()):
                    gone.wait(1)
                return
            if word == "broken":
                context.abort_with_status(rpc_status.to_status(status("UNAVAILABLE", "ENGINE_LOST", "it died.")))
            if word == "killed":
                context.abort(grpc.StatusCode.CANCELLED, "RST_STREAM with error code 8")
        if not text.startswith("cut"):
            usage, telemetry = self._usage(words), self._telemetry(request)
            yield event(finished=generation_pb2.GenerationFinished(usage=usage, telemetry=telemetry))

    def Embed(self, request, context):
        self._note(request, context, request.options.request_id)
        results = []
        for given in request.inputs:
            text = given.text if given.HasField("text") else " ".join(map(str, given.token_ids.ids))
            if text == "one too few":
                continue
            if text.startswith("fail"):
                failure = status("INVALID_ARGUMENT", "INPUT_TOO_LONG", f"{text!r} is too long.")
                results.append(embedding_pb2.EmbedResult(error=failure))
                continue
            if text == "big":  # above grpc's own limit of 4 MiB
                vector = embedding_pb2.DenseVector(values=[0.5] * 1_200_000, dimensions=1_200_000)
                results.append(embedding_pb2.EmbedResult(embedding=embedding_pb2.Embedding(vectors=[vector])))
                continue
            vector = embedding_pb2.DenseVector(values=[len(text), len(text.split()), 1], dimensions=3)
            report = common_pb2.InputReport(token_count=len(text.split()))
            results.append(embedding_pb2.EmbedResult(embedding=embedding_pb2.Embedding(vectors=[vector], input=report)))
        return embedding_pb2.EmbedResponse(request_id=request.options.request_id, results=results)

    def ListModels(self, request, context):
        models = [self._model("talker", "generate"), self._model("reader", "embed")]
        if not request.page_token:
            return model_pb2.ListModelsResponse(models=models[:1], next_page_token="2")
        return model_pb2.ListModelsResponse(models=models[1:])

    def GetModel(self, request, context):
        kinds = {"talker": "generate", "reader": "embed"}
        if request.model not in kinds:
            problem = status("NOT_FOUND", "MODEL_NOT_FOUND", f"no model {request.model!r} is loaded.")
            details = ("grpc-status-details-bin", problem.SerializeToString())
            context.set_trailing_metadata((("x-request-id", "made by the server"), details))
            context.abort(grpc.StatusCode.NOT_FOUND, problem.message)
        return model_pb2.GetModelResponse(model=self._model(request.model, kinds[request.model]))

    def _note(self, request, context, name: str) -> None:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        self.attempts[name] += 1

    def _misbehave(self, text: str, request, context) -> None:
        kind, *rest = text.split(":")
        if kind == "fail" and rest[1]:
            context.abort_with_status(rpc_status.to_status(status(rest[0], rest[1], "a message with 1.7.")))
        if kind == "fail":
            if rest[0] == "DATA_LOSS":  # torn details must not hide the rest
                context.set_trailing_metadata((("grpc-status-details-bin", b"\xff\xff\xff"),))
            context.abort(grpc.StatusCode[rest[0]], "plain words")
        if kind == "flaky" and self.attempts[request.options.request_id] <= 2:
            context.abort(grpc.StatusCode.UNAVAILABLE, "starting")
        if kind == "slow":
            gone = threading.Event()
            context.add_callback(gone.set)
            gone.wait(30)

    @staticmethod
    def _text(request) -> str:
        match request.WhichOneof("prompt"):
            case "text":
                return request.text
            case "token_ids":
                return " ".join(map(str, request.token_ids.ids))
            case _:
                return request.chat.messages[-1].content

    @staticmethod
    def _delta(words: list[str], index: int, *, jump: bool):
        last = index == len(words) - 1
        return generation_pb2.GenerationDelta(
            candidates=[
                generation_pb2.CandidateDelta(
                    text=words[index] + ("" if last else " "),
                    token_ids=[len(words[index])],
                    first_token_index=index + jump * index,
                    finish_reason=generation_pb2.FINISH_REASON_MAX_TOKENS if last else 0,
                )
            ]
        )

    @staticmethod
    def _usage(words: list[str]) -> common_pb2.Usage:
        count = len(words)
        return common_pb2.Usage(
            prompt_tokens=count, cached_prompt_tokens=1, completion_tokens=count, total_tokens=2 * count
        )

    @staticmethod
    def _telemetry(request) -> common_pb2.Telemetry | None:
        if not request.options.include_telemetry:
            return None
        return common_pb2.Telemetry(queue_duration=duration_pb2.Duration(nanos=500_000_000), step_count=4)

    @staticmethod
    def _model(name: str, task: str) -> model_pb2.Model:
        return model_pb2.Model(
            id=name,
            state=model_pb2.MODEL_STATE_READY,
            tasks=[model_pb2.ModelTask.Value(f"MODEL_TASK_{task.upper()}")],
            parameter_count=134_515_008,
            weight_bytes=142_000_000,
            default_pooling=common_pb2.POOLING_TYPE_MEAN,
            prompts={"query": "query: "},
        )


@contextmanager
def served() -> Iterator[Standin]:
    servicer = Standin()
    server = grpc.server(futures.ThreadPoolExecutor(16))
    generation_pb2_grpc.add_GenerationServiceServicer_to_server(servicer, server)
    embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server(servicer, server)
    model_pb2_grpc.add_ModelServiceServicer_to_server(servicer, server)
    servicer.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    servicer.die = lambda: server.stop(None).wait()
    yield servicer
    servicer.stopping.set()
    server.stop(None).wait()


@pytest.fixture(scope="session")
def standin() -> Iterator[Standin]:
    with served() as servicer:
        yield servicer


@pytest.fixture
def mortal() -> Iterator[Standin]:
    """A server of its own, for a test that makes it die."""
    with served() as servicer:
        yield servicer


@pytest.fixture
def server(standin: Standin) -> Standin:
    """The server, with nothing noted yet."""
    standin.requests.clear()
    standin.metadata.clear()
    standin.attempts.clear()
    while not standin.left.empty():
        standin.left.get()
    return standin


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def stretto(server: Standin) -> Run:
    """The command line in a process of its own, pointed at the server."""

    def run(*words: str, text: str = "", variables: dict[str, str] | None = None):
        return subprocess.run(
            [sys.executable, "-m", "stretto.cli.main", *words],
            input=text,
            capture_output=True,
            encoding="utf-8",
            timeout=60,
            env={"PATH": "/usr/bin:/bin", "STRETTO_TARGET": server.target, **(variables or {})},
        )

    return run


PATIENCE = 30  # seconds for anything to appear on a busy machine
# Makes the pty the controlling terminal, as a shell's is, so that Ctrl-C is a signal.
ON_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "stretto.cli.main", *sys.argv[1:]])
"""


class Terminal:
    """The far side of a pty: types keys and reads what appears."""

    def __init__(self, words: tuple[str, ...], variables: dict[str, str]) -> None:
        self._ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (24, 100))
        self.process = subprocess.Popen(
            [sys.executable, "-c", ON_TERMINAL, *words],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            env={"PATH": "/usr/bin:/bin", "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", **variables},
        )
        os.close(theirs)
        self._unread = ""

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def expect(self, text: str) -> str:
        """What appears up to the end of `text`."""
        end = time.monotonic() + PATIENCE
        while text not in self._unread:
            ready, _, _ = select.select([self._ours], [], [], max(end - time.monotonic(), 0))
            assert ready, f"no {text!r} within {PATIENCE} s; there is {self._unread!r}"
            self._unread += self._read()
        seen, _, self._unread = self._unread.partition(text)
        return seen + text

    def _read(self) -> str:
        try:
            return os.read(self._ours, 4096).decode(errors="replace")
        except OSError:  # Linux says so when the other side is gone
            raise AssertionError(f"the command ended with {self.process.wait()}: {self._unread!r}") from None

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


@pytest.fixture
def on_terminal(server: Standin) -> Iterator[Callable[..., Terminal]]:
    """The command line on a terminal of its own, pointed at the server."""
    opened: list[Terminal] = []

    def open_(*words: str, variables: dict[str, str] | None = None) -> Terminal:
        opened.append(Terminal(words, {"STRETTO_TARGET": server.target, **(variables or {})}))
        return opened[-1]

    yield open_
    for terminal in opened:
        terminal.close()
