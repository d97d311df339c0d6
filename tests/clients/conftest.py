"""
A small server that speaks the whole wire format and computes answers anyone can check by hand.

It is another server, not a part of ours: the answer to a text is its words in reverse, one token a word, whose id is
the length of the word; the vector of a text is (its characters, its words, 1). Texts that begin with "fail:", "flaky:",
"dropped:", "endless", "doomed" or "cut" make it misbehave as the tests need.

A streamed word "broken", "killed" or "swapped" ends the stream behind itself. Of "hel+lo" the tail "lo" is held back
and comes with the next word, as half a character does. An echoed prompt is "echo" of three tokens.
Candidate i of a stream leaves out the first i words.
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
    server_pb2,
    server_pb2_grpc,
    tokenizer_pb2,
    tokenizer_pb2_grpc,
)

SEED = 2**64 - 1
LIMITS = server_pb2.GetServerInfoResponse(
    version="1.2.3",
    api_versions=["v1"],
    uptime=duration_pb2.Duration(seconds=90, nanos=500_000_000),
    max_request_bytes=64 << 20,
    max_response_bytes=64 << 20,
    max_inputs_per_request=2048,
    max_queue_size=7,
    max_batch_tokens=8,
    device="cpu",
    cpu_threads=2,
    kernels="portable",
)


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
    tokenizer_pb2_grpc.TokenizerServiceServicer,
    server_pb2_grpc.ServerServiceServicer,
):
    """`limits` is what it says of itself, None for an older server, `accepted_inputs` what it takes, whatever it says.

    `requests` are those that came, `attempts` count them by id, `left` receives the id of a stream that was left."""

    def __init__(self) -> None:
        self.target = ""
        self.requests: list[Message] = []
        self.metadata: list[dict[str, str]] = []
        self.attempts: Counter[str] = Counter()
        self.left: queue.Queue[str] = queue.Queue()
        self.stopping = threading.Event()
        self.draining = False
        self.refusing = False  # streams of texts, before their first message
        self.break_after: str | None = None  # once
        self.loading = 0  # how many more attempts to resume a stream find the model loading
        self.version = "v1"
        self.stream_options = generation_pb2.StreamOptions()
        self.limits: server_pb2.GetServerInfoResponse | None = LIMITS
        self.accepted_inputs = 2**31
        self.info_count = 0
        self.going_on = threading.Event()
        self.going_on.set()
        self.in_flight = self.most_in_flight = 0
        self.changed = threading.Condition()
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
            prompt_logprobs=[self._position(5)] if request.config.output.include_prompt_logprobs else [],
        )

    def GenerateStream(self, request, context):
        options, request = request.stream_options, request.request
        name = request.options.request_id
        self.stream_options = options
        self._note(request, context, name)
        text = self._text(request)
        self._misbehave(text, request, context)
        if self.attempts[name] > 1 and self.loading:
            self.loading -= 1
            context.abort_with_status(
                rpc_status.to_status(status("FAILED_PRECONDITION", "MODEL_NOT_READY", "talker is loading."))
            )
        if request.expected_model_version not in ("", self.version):
            context.abort_with_status(rpc_status.to_status(status("FAILED_PRECONDITION", "VERSION_MISMATCH", "no.")))
        gone = threading.Event()
        context.add_callback(lambda: (self.left.put(name), gone.set()))
        event = generation_pb2.GenerateStreamResponse
        started = generation_pb2.GenerationStarted(
            request_id=name,
            input=common_pb2.InputReport(token_count=3),
            seed=SEED,
            provenance=common_pb2.Provenance(model_version=self.version),
        )
        yield event(started=started)
        if options.include_prefill_progress:
            for read in (1, 3):
                yield event(progress=generation_pb2.PrefillProgress(processed_tokens=read, total_tokens=3))
        if request.config.output.include_prompt_logprobs:
            yield event(prompt_scored=generation_pb2.PromptScored(logprobs=[self._position(5)]))
        if self.break_after == "nothing":
            self._break(context)
        if text.startswith("doomed") and self.attempts[name] > 1:
            context.abort_with_status(rpc_status.to_status(status("UNAVAILABLE", "ENGINE_LOST", "it died again.")))
        words = text.split()[::-1]
        answers = [words[index:] for index in range(request.config.sampling.candidate_count or 1)]
        given = [len(ids.ids) for ids in request.resume_after] or [0] * len(answers)
        if ended := [index for index, answer in enumerate(answers) if given[index] == len(answer)]:
            reason = generation_pb2.FINISH_REASON_MAX_TOKENS
            again = [generation_pb2.CandidateDelta(index=index, finish_reason=reason) for index in ended]
            yield event(delta=generation_pb2.GenerationDelta(candidates=again))
        for step in range(len(words)):
            deltas = [
                self._delta(index, answer, step, jump=text.startswith("jump"), echo=request.config.output.echo)
                for index, answer in enumerate(answers)
                if given[index] <= step < len(answer)
            ]
            if not deltas:
                continue
            yield event(delta=generation_pb2.GenerationDelta(candidates=deltas))
            word = words[step]
            if word == "endless":
                while not (gone.is_set() or self.stopping.is_set()):
                    gone.wait(1)
                return
            if word == "swapped":
                self.version = "v2"
            if word == self.break_after:
                self._break(context)
            if word in ("broken", "doomed", "swapped"):
                context.abort_with_status(rpc_status.to_status(status("UNAVAILABLE", "ENGINE_LOST", "it died.")))
            if word == "killed":
                context.abort(grpc.StatusCode.CANCELLED, "RST_STREAM with error code 8")
        if not text.startswith("cut"):
            usage, telemetry = self._usage(words), self._telemetry(request)
            yield event(finished=generation_pb2.GenerationFinished(usage=usage, telemetry=telemetry))

    def _break(self, context) -> None:
        self.break_after = None
        context.abort_with_status(rpc_status.to_status(status("UNAVAILABLE", "ENGINE_LOST", "it died.")))

    def Score(self, request, context):
        """A continuation's logprob is minus its characters, a token each."""
        self._note(request, context, request.options.request_id)
        results = []
        for item in request.items:
            if item.context.text.startswith("fail"):
                results.append(generation_pb2.ScoreResult(error=status("INVALID_ARGUMENT", "INPUT_TOO_LONG", "long.")))
                continue
            scores = [self._score(text.text, tokens=request.include_token_logprobs) for text in item.continuations]
            report = common_pb2.InputReport(token_count=len(item.context.text))
            scored = generation_pb2.ScoredItem(continuations=scores, context=report)
            results.append(generation_pb2.ScoreResult(item=scored))
        return generation_pb2.ScoreResponse(
            request_id=request.options.request_id, results=results, usage=self._usage(["one"])
        )

    def Tokenize(self, request, context):
        """A token a word; a chat is its last message."""
        self._note(request, context, "")
        texts = [text.text for text in request.inputs] or [request.chat.messages[-1].content]
        results = []
        for words in (text.split(" ") for text in texts):
            made = tokenizer_pb2.Tokenization(token_count=len(words))
            if not request.count_only:
                made.token_ids.extend(len(word) for word in words)
            if request.include_pieces:
                made.pieces.extend(word.encode() for word in words)
            if request.include_offsets:
                made.offsets.add(start=0, end=len(words[0]))
            results.append(made)
        return tokenizer_pb2.TokenizeResponse(results=results, max_input_tokens=512)

    def Detokenize(self, request, context):
        self._note(request, context, "")
        return tokenizer_pb2.DetokenizeResponse(texts=[" ".join("x" * id for id in ids.ids) for ids in request.inputs])

    def GetServerInfo(self, request, context):
        self.info_count += 1
        if self.limits is None:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        return self.limits

    def Embed(self, request, context):
        with self.changed:
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            self.changed.notify_all()
        context.add_callback(self._landed)
        self._note(request, context, request.options.request_id)
        self.going_on.wait(30)
        for place, given in enumerate(request.inputs):
            if given.text == "refused":
                problem = status("INVALID_ARGUMENT", "INVALID_PARAMETER", f"inputs[{place}].text is refused.")
                context.abort_with_status(rpc_status.to_status(problem))
        if len(request.inputs) > self.accepted_inputs:
            context.abort_with_status(rpc_status.to_status(status("INVALID_ARGUMENT", "REPLY_TOO_LARGE", "too much.")))
        results = [self._embedded(given) for given in request.inputs if given.text != "one too few"]
        return embedding_pb2.EmbedResponse(
            request_id=request.options.request_id,
            results=results,
            usage=self._usage(["one"] * len(results)),
            telemetry=self._telemetry(request),
            provenance=common_pb2.Provenance(model_version=self.version),
        )

    def EmbedStream(self, requests, context):
        gone = threading.Event()
        context.add_callback(gone.set)
        if self.refusing:
            context.abort_with_status(rpc_status.to_status(status("UNAUTHENTICATED", "UNAUTHENTICATED", "who?")))
        first = next(requests)
        self._note(first, context, first.config.options.request_id)
        finished = threading.Event()
        context.add_callback(lambda: finished.is_set() or self.left.put(first.config.options.request_id))
        yield embedding_pb2.EmbedStreamResponse(started=common_pb2.Provenance(model_version=self.version))
        summary = embedding_pb2.EmbedStreamSummary()
        for request in requests:
            if request.item.input.text == "stall":
                gone.wait(30)
                return
            if request.item.input.text == "unanswered":
                continue
            if request.item.input.text == "lost":
                context.abort_with_status(rpc_status.to_status(status("UNAVAILABLE", "ENGINE_LOST", "it died.")))
            result = self._embedded(request.item.input)
            summary.usage.prompt_tokens += 1
            name = "7" if request.item.input.text == "wrong name" else request.item.item_id
            item = embedding_pb2.EmbedStreamItemResult(item_id=name, result=result)
            yield embedding_pb2.EmbedStreamResponse(item=item)
        yield embedding_pb2.EmbedStreamResponse(summary=summary)
        finished.set()

    def _landed(self) -> None:
        with self.changed:
            self.in_flight -= 1

    @staticmethod
    def _embedded(given) -> embedding_pb2.EmbedResult:
        text = given.text if given.HasField("text") else " ".join(map(str, given.token_ids.ids))
        text += f"|{given.text_pair}" if given.HasField("text_pair") else ""
        if text.startswith("fail"):
            failure = status(
                "INVALID_ARGUMENT",
                "INPUT_TOO_LONG",
                f"{'inputs[0].text ' * (text == 'fail by place')}{text!r} is too long.",
            )
            return embedding_pb2.EmbedResult(error=failure)
        if text == "big":  # above grpc's own limit of 4 MiB
            vector = embedding_pb2.DenseVector(values=[0.5] * 1_200_000, dimensions=1_200_000)
            return embedding_pb2.EmbedResult(embedding=embedding_pb2.Embedding(vectors=[vector]))
        if text == "tokens":
            vectors = [embedding_pb2.DenseVector(values=[id, 1], dimensions=2) for id in (7, 8, 9)]
            ids = common_pb2.TokenIds(ids=[7, 8, 9])
            return embedding_pb2.EmbedResult(embedding=embedding_pb2.Embedding(vectors=vectors, token_ids=ids))
        vector = embedding_pb2.DenseVector(values=[len(text), len(text.split()), 1], dimensions=3)
        report = common_pb2.InputReport(token_count=len(text.split()))
        return embedding_pb2.EmbedResult(embedding=embedding_pb2.Embedding(vectors=[vector], input=report))

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
        if self.draining:
            context.abort_with_status(rpc_status.to_status(status("UNAVAILABLE", "DRAINING", "it stops.")))
        kind, *rest = text.split(":")
        if kind == "fail" and rest[1]:
            context.abort_with_status(rpc_status.to_status(status(rest[0], rest[1], "a message with 1.7.")))
        if kind == "fail":
            if rest[0] == "DATA_LOSS":  # torn details must not hide the rest
                context.set_trailing_metadata((("grpc-status-details-bin", b"\xff\xff\xff"),))
            context.abort(grpc.StatusCode[rest[0]], "plain words")
        if kind == "flaky" and self.attempts[request.options.request_id] <= 2:
            context.abort(grpc.StatusCode.UNAVAILABLE, "starting")
        if kind == "dropped" and self.attempts[request.options.request_id] <= 2:
            context.abort(grpc.StatusCode.CANCELLED, "stopping")
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
    def _delta(index: int, words: list[str], step: int, *, jump: bool, echo: bool) -> generation_pb2.CandidateDelta:
        last = step == len(words) - 1
        word, tail = words[step].replace("+", ""), ""
        if "+" in words[step] and not last:
            word = words[step].partition("+")[0]
        elif not last:
            word += " "
        if step and "+" in words[step - 1]:
            tail = words[step - 1].partition("+")[2] + " "
        return generation_pb2.CandidateDelta(
            index=index,
            text="echo " * (echo and not step) + tail + word,
            token_ids=[101, 102, 103] * (echo and not step) + [len(words[step])],
            first_token_index=step + jump * step + 3 * bool(echo and step),
            finish_reason=generation_pb2.FINISH_REASON_MAX_TOKENS if last else 0,
        )

    @staticmethod
    def _score(text: str, *, tokens: bool) -> generation_pb2.ContinuationScore:
        count = len(text)
        return generation_pb2.ContinuationScore(
            logprob=-count,
            mean_logprob=-1,
            perplexity=2.5,
            token_count=count,
            is_greedy=count == 1,
            tokens=[Standin._position(ord(letter)) for letter in text] if tokens else [],
        )

    @staticmethod
    def _position(token_id: int) -> generation_pb2.PositionLogprobs:
        token = generation_pb2.TokenLogprob(token_id=token_id, token=b"\xc3", logprob=-1, rank=1)
        return generation_pb2.PositionLogprobs(chosen=token, top=[token])

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
            default_sampling=generation_pb2.SamplingConfig(temperature=0.5, top_k=0),
        )


@contextmanager
def served() -> Iterator[Standin]:
    servicer = Standin()
    server = grpc.server(futures.ThreadPoolExecutor(16))
    generation_pb2_grpc.add_GenerationServiceServicer_to_server(servicer, server)
    embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server(servicer, server)
    model_pb2_grpc.add_ModelServiceServicer_to_server(servicer, server)
    tokenizer_pb2_grpc.add_TokenizerServiceServicer_to_server(servicer, server)
    server_pb2_grpc.add_ServerServiceServicer_to_server(servicer, server)
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
def another() -> Iterator[Standin]:
    """A second one, which stands behind the same name."""
    with served() as servicer:
        yield servicer


@pytest.fixture
def server(standin: Standin) -> Standin:
    """The server, with nothing noted yet."""
    standin.requests.clear()
    standin.metadata.clear()
    standin.attempts.clear()
    standin.version, standin.limits, standin.accepted_inputs = "v1", LIMITS, 2**31
    standin.break_after, standin.loading, standin.refusing = None, 0, False
    standin.info_count = standin.most_in_flight = 0
    while not standin.left.empty():
        standin.left.get()
    return standin


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def surroundings(server: Standin) -> dict[str, str]:
    """The environment of a command: bare, but for the server's address and where these tests find the code."""
    return {
        "PATH": "/usr/bin:/bin",
        "STRETTO_TARGET": server.target,
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
    }


@pytest.fixture
def stretto(surroundings: dict[str, str]) -> Run:
    """The command line in a process of its own, pointed at the server."""

    def run(*words: str, text: str = "", variables: dict[str, str] | None = None):
        return subprocess.run(
            [sys.executable, "-m", "stretto.cli.main", *words],
            input=text,
            capture_output=True,
            encoding="utf-8",
            timeout=60,
            env=surroundings | (variables or {}),
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
            env={"TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", **variables},
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
def on_terminal(surroundings: dict[str, str]) -> Iterator[Callable[..., Terminal]]:
    """The command line on a terminal of its own, pointed at the server."""
    opened: list[Terminal] = []

    def open_(*words: str, variables: dict[str, str] | None = None) -> Terminal:
        opened.append(Terminal(words, surroundings | (variables or {})))
        return opened[-1]

    yield open_
    for terminal in opened:
        terminal.close()
