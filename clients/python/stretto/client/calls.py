"""
The calls that both clients have, written once: names, arguments, documentation; how each is waited for is theirs.

This file is long because it tells of every argument, where an editor and `help()` find it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar, Unpack

from stretto.client import methods, replies, requests
from stretto.client.channel import checked_timeout, connection
from stretto.client.errors import invalid
from stretto.client.gathering import Limits
from stretto.client.methods import Ask, Method, ReplyT, RequestT, ResultT
from stretto.client.options import (
    ChatOptions,
    DetokenizeOptions,
    EmbedOptions,
    GenerateOptions,
    ModelOptions,
    ScoreOptions,
    StreamOptions,
    TokenizeOptions,
    checked,
    spelled_out,
)
from stretto.client.results import Generation, ModelInfo, Scores, ServerInfo, Tokenizations
from stretto.client.texts import Message, Prompt, Text
from stretto.v1 import embedding_pb2, generation_pb2, model_pb2, server_pb2

GenerationT = TypeVar("GenerationT")
StreamT = TypeVar("StreamT")
TextsT = TypeVar("TextsT")
EmbeddingsT = TypeVar("EmbeddingsT")
EmbeddingStreamT = TypeVar("EmbeddingStreamT")
ScoresT = TypeVar("ScoresT")
ScoreBatchT = TypeVar("ScoreBatchT")
TokenizationsT = TypeVar("TokenizationsT")
StringsT = TypeVar("StringsT")
ServerInfoT = TypeVar("ServerInfoT")
ModelsT = TypeVar("ModelsT")
ModelT = TypeVar("ModelT")

A_DAY = 86_400.0  # seconds that a stream of a whole corpus may take where nothing else is said


class Calls(
    ABC,
    Generic[
        GenerationT,
        StreamT,
        TextsT,
        EmbeddingsT,
        EmbeddingStreamT,
        ScoresT,
        ScoreBatchT,
        TokenizationsT,
        StringsT,
        ServerInfoT,
        ModelsT,
        ModelT,
    ],
):
    """A connection to one server. Safe to share between threads (`Client`) or tasks of one loop (`AsyncClient`).

    `target` is host:port, "dns:///name:port", "ipv4:10.0.0.1:50051,10.0.0.2:50051" or "unix:/path"; default: the
    environment's STRETTO_TARGET, else 127.0.0.1:50051. Where a target has several addresses, calls take turns among
    those that answer. `timeout` is the seconds that a call may take where it does not say otherwise; there is no way
    to wait for ever. `token` is sent as a bearer token with every call, over plain text too unless `tls` (the system's
    roots) or `root_certificates` (a PEM file; implies tls) is given. `metadata` is sent with every call.

    A call that no server has begun (nothing answers, or the server is stopping) is tried up to four times within
    its timeout. Every error is a `stretto.client.StrettoError`.
    """

    def __init__(
        self,
        target: str | None = None,
        *,
        timeout: float = 60.0,
        token: str | None = None,
        tls: bool = False,
        root_certificates: Path | str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self._connection = connection(
            target, timeout=timeout, token=token, tls=tls, root_certificates=root_certificates, metadata=metadata
        )
        self._known_limits: Limits | None = None
        self._open()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.target!r})"

    @property
    def target(self) -> str:
        """The address that is called."""
        return self._connection.target

    @spelled_out
    def generate(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> GenerationT:
        """Continue `prompt`: a text, a list of token ids, or a list of messages (as `chat` does).

        Arguments left out, or None, are the checkpoint's defaults. `model` may stay empty where the server has one
        model that generates.

        How tokens are chosen: `temperature` 0 is greedy. `top_k`, `top_p`, `min_p` and `typical_p` leave out unlikely
        tokens. `repetition_penalty` (prompt and answer), `presence_penalty` and `frequency_penalty` (the answer) look
        at the last `penalty_window` tokens; no run of `no_repeat_ngram_size` tokens comes twice. `logit_bias` adds to
        the logits of token ids; `allowed_token_ids`, `banned_token_ids` and `banned_strings` permit and forbid.
        `seed` makes a drawn answer repeatable; the one used comes back. `candidates` answers to the same prompt are
        drawn independently; of `best_of` drawn those with the best mean logprob come back.

        Where it ends: at the end of the context, at `max_tokens`, at a `stop` text or a `stop_token_ids` id (left out
        of the answer unless `include_stop`; neither before `min_tokens`), after `time_limit` seconds, or at the
        checkpoint's end token unless `ignore_eos`; `finish_reason` says which.

        What comes back: `logprobs` adds each token's log probability, `top_logprobs` the n likeliest at each
        position, `logprob_token_ids` those of exactly these ids, `prompt_logprobs` those of the prompt. `echo` puts
        the prompt in front; `skip_special_tokens=False` shows control tokens. `telemetry` asks for where time went.

        What is read: `response_prefix` is a forced start of the answer. `truncate` "end", "start" or "middle" cuts a
        prompt that is too long, to `max_prompt_tokens` where given, and `input.truncated_tokens` counts what was cut;
        "error" refuses it. `add_special_tokens` and `parse_special_tokens` say whether the tokenizer adds its own and
        whether control tokens written in a text are control tokens. `template`, `template_arguments` and
        `add_generation_prompt` are for messages. `expected_model_version` refuses any other checkpoint.

        `priority`: larger runs earlier. `queue_timeout`: seconds to wait for a first step. `cache_salt` keeps cached
        prompts apart; `use_prefix_cache=False` neither reads nor writes them. `request_id` is yours to choose, else
        made here. `timeout`: seconds for the whole call; an answer that takes longer is lost, so set `max_tokens`.

        Raises InvalidRequest (`field` says where; InputTooLong, BadTokenId, ...), ModelNotFound, TaskNotSupported,
        Overloaded (`retry_after` seconds), DeadlineExceeded, Unavailable, ...
        """
        return self._generation(self._ask_generate(prompt, GenerateOptions, options))

    @spelled_out
    def chat(self, messages: Sequence[Message], **options: Unpack[ChatOptions]) -> GenerationT:
        """Answer a conversation: `[{"role": "user", "content": "Hello"}]`, with the checkpoint's chat template.

        Control tokens written in a message stay text. `template` names one of the checkpoint's templates,
        `template_arguments` are further variables of it. Everything else is as in `generate`, and so is the result.
        """
        return self._generation(self._ask_generate(requests.messages(messages), ChatOptions, options))

    @spelled_out
    def stream(self, prompt: Prompt, **options: Unpack[StreamOptions]) -> StreamT:
        """Continue `prompt`, a text, a list of token ids or a list of messages, piece by piece as it is made.

        Iterating gives `Piece`s: whole characters, never half a stop text. Leaving the loop by any way, closing the
        stream, or dropping it cancels the request on the server. `usage`, `seed`, `input`, `provenance`,
        `prompt_logprobs` and `telemetry` stand on the stream itself. Arguments and errors are those of `generate` and
        `chat`; errors of the server come out of the loop. `min_tokens_per_piece` gathers tokens, but for the first
        and the last piece. `on_progress` is called with a `Progress` while the prompt is read.

        A stream that breaks (the connection is lost, the server stops or restarts) is resumed where it broke, with the
        same seed and the same checkpoint, up to four times within `timeout`; a server that is back and still loads
        the model is waited for. Pieces go on as if nothing had happened, `resumed` counts, and a warning of the logger
        "stretto.client" says so. `resume=False` raises instead.
        """
        given, seconds = checked(StreamOptions, options), self._seconds(options)
        return self._stream(requests.stream(prompt, given, seconds), given, seconds)

    @spelled_out
    def embed(self, texts: TextsT, **options: Unpack[EmbedOptions]) -> EmbeddingsT:
        """One vector for each of `texts`, in their order: any iterable of texts, of any length.

        A text is a string, a list of token ids (taken as they are) or a pair of strings. They travel in as many
        requests as the server's limits ask for, four at once; `timeout` holds for each of them.

        The result is a sequence and an array: `result.vectors` and `numpy.asarray(result)` are [n, d] float32 where
        numpy is installed (a list of n lists of d floats else), `result.shape` is (n, d), `result[i].vector` is [d].
        A text that fails does not fail the others: `result[i].error` says why, and asking for the whole array raises
        that error; a text that alone is above the message limit fails so, with MessageTooLarge.

        Arguments left out are as saved in the checkpoint. `pooling` is "cls", "mean", "max", "last_token",
        "weighted_mean" or "mean_sqrt_len", or "none" for one vector a token: then `result[i].vectors` is [t, d] and
        `result[i].token_ids` has t ids. `layer` is the hidden layer that is pooled: -1 the last, 0 the embeddings.
        `normalize` scales vectors to length 1; `dimensions` keeps the first d (for checkpoints trained for it), then
        normalises. `encoding` "float16", "bfloat16", "int8", "uint8" or "binary" (signs: 1 and -1) makes replies
        smaller; vectors are float32 here all the same, the bytes that came are in `result[i].reply`. `prompt_name` is
        one of the checkpoint's prompts ("query"), `prompt_text` is put in front literally.

        `truncate` "end", "start" or "middle" cuts a text that is too long (`result[i].input.truncated_tokens` counts
        what was cut), "error" fails it, "chunk" splits it into windows of `max_chunk_tokens` that share
        `overlap_tokens`, at most `max_chunks`, and makes one vector of theirs by `aggregation` "weighted_mean" (by
        tokens), "mean", "max" or "first"; with "none" `result[i].vectors` has one a window. The rest is as in
        `generate`.

        Raises InvalidRequest, ModelNotFound, TaskNotSupported, Overloaded (`retry_after` seconds), DeadlineExceeded,
        Unavailable, Aborted (the model was replaced between two requests), ...
        """
        if isinstance(texts, str):
            raise invalid("texts is one string; pass a list of them: embed([text]).", "inputs")
        seconds = self._seconds(options)
        return self._embeddings(texts, requests.embed(checked(EmbedOptions, options), seconds), seconds)

    @spelled_out
    def embed_stream(self, texts: TextsT, **options: Unpack[EmbedOptions]) -> EmbeddingStreamT:
        """The vectors of a corpus of any size: iterating gives an `Embedding` for each of `texts`, in their order.

        Texts are taken from the iterable only as the results are read, never more than 256 ahead. A text that fails
        has an `error` and the stream goes on. Leaving the loop by any way cancels the rest. `usage` and `telemetry`
        are there at the end. Arguments are those of `embed`, but for `timeout`: seconds for the whole stream, by
        default a day.
        """
        timeout = options.get("timeout")
        seconds = A_DAY if timeout is None else checked_timeout(timeout)
        return self._embedding_stream(texts, requests.embed(checked(EmbedOptions, options), seconds), seconds)

    @spelled_out
    def score(self, context: Text, continuations: Sequence[Text], **options: Unpack[ScoreOptions]) -> ScoresT:
        """How likely the model finds each of `continuations` after `context` ("" for none): a `Score` for each.

        `logprob` is the sum over the continuation's tokens, `mean_logprob` and `perplexity` are by token, `is_greedy`
        says whether every token was the likeliest; `token_logprobs` adds `tokens`, one a position. `truncate` "start"
        cuts a context that is too long, "error" refuses it. The rest, and the errors, are as in `generate`.
        """
        made = self._score_request([(context, continuations)], options)

        def read(reply: generation_pb2.ScoreResponse) -> Scores:
            (scores,) = self._read_scores(made, reply)
            if scores.error is not None:
                raise scores.error
            return scores

        return self._scores(self._ask(methods.SCORE, made, read, options))

    @spelled_out
    def score_batch(self, items: Iterable[tuple[Text, Sequence[Text]]], **options: Unpack[ScoreOptions]) -> ScoreBatchT:
        """`score` for many: a tuple of `Scores`, one for each pair of a context and its continuations.

        An item that fails does not fail the others: its `error` says why, and reading its scores raises that.
        """
        made = self._score_request(items, options)
        return self._score_batch(self._ask(methods.SCORE, made, partial(self._read_scores, made), options))

    @spelled_out
    def tokenize(self, texts: Iterable[Text] | Sequence[Message], **options: Unpack[TokenizeOptions]) -> TokenizationsT:
        """The token ids of each of `texts`; of a list of messages, of the one text that the chat template makes.

        The result is a sequence of `Tokenization`: `token_count`, `token_ids`, and where asked for `pieces` (bytes)
        and `offsets` (half-open spans of code points). `count_only` leaves out the ids. `max_input_tokens` of the
        result is the model's limit. Other arguments and the errors are as in `generate`.
        """
        made = requests.tokenize(texts, checked(TokenizeOptions, options))
        count = 1 if made.HasField("chat") else len(made.inputs)
        return self._tokenizations(
            self._ask(methods.TOKENIZE, made, partial(replies.read_tokenizations, count=count), options)
        )

    @spelled_out
    def detokenize(self, token_ids: Iterable[Sequence[int]], **options: Unpack[DetokenizeOptions]) -> StringsT:
        """The text of each list of token ids, as a tuple of strings. `skip_special_tokens=False` shows those, too."""
        made = requests.detokenize(token_ids, checked(DetokenizeOptions, options))
        read = partial(replies.read_texts, count=len(made.inputs))
        return self._strings(self._ask(methods.DETOKENIZE, made, read, options))

    def server_info(self, *, timeout: float | None = None) -> ServerInfoT:
        """Version, limits and hardware of the server, as a `ServerInfo`."""
        return self._server_info(self._ask_server_info(self._seconds({"timeout": timeout})))

    def models(self, *, timeout: float | None = None) -> ModelsT:
        """Every model of the server with its live state, as a tuple of `ModelInfo`."""
        return self._models(self._seconds({"timeout": timeout}))

    def model(self, name: str, *, timeout: float | None = None) -> ModelT:
        """The model of that name or alias as a `ModelInfo`; raises ModelNotFound."""
        request = model_pb2.GetModelRequest(model=name)
        return self._model(
            self._ask(methods.GET_MODEL, request, lambda reply: replies.read_model(reply.model), {"timeout": timeout})
        )

    def _ask_generate(self, prompt: Prompt, kind: type, options: GenerateOptions | ChatOptions) -> Ask[Generation]:
        made = requests.generate(prompt, checked(kind, options), self._seconds(options))
        return self._ask(methods.GENERATE, made, replies.read_generation, options)

    def _score_request(
        self, items: Iterable[tuple[Text, Sequence[Text]]], options: ScoreOptions
    ) -> generation_pb2.ScoreRequest:
        return requests.score(items, checked(ScoreOptions, options), self._seconds(options))

    def _read_scores(
        self, made: generation_pb2.ScoreRequest, reply: generation_pb2.ScoreResponse
    ) -> tuple[Scores, ...]:
        return replies.read_scores(reply, counts=[len(item.continuations) for item in made.items], target=self.target)

    def _ask_models(self, page: model_pb2.ListModelsRequest, seconds: float) -> Ask[model_pb2.ListModelsResponse]:
        return self._ask(methods.LIST_MODELS, page, lambda reply: reply, {"timeout": seconds})

    def _ask_server_info(self, seconds: float) -> Ask[ServerInfo]:
        request = server_pb2.GetServerInfoRequest()
        return self._ask(methods.GET_SERVER_INFO, request, replies.read_server_info, {"timeout": seconds})

    def _ask(
        self,
        method: Method[RequestT, ReplyT],
        request: RequestT,
        read: Callable[[ReplyT], ResultT],
        options: ModelOptions,
    ) -> Ask[ResultT]:
        return Ask(method=method, request=request, read=read, seconds=self._seconds(options))

    def _seconds(self, options: ModelOptions) -> float:
        timeout = options.get("timeout")
        return self._connection.timeout if timeout is None else checked_timeout(timeout)

    @abstractmethod
    def _open(self) -> None: ...

    @abstractmethod
    def _generation(self, ask: Ask[Generation]) -> GenerationT: ...

    @abstractmethod
    def _stream(
        self, request: generation_pb2.GenerateStreamRequest, options: Mapping[str, Any], seconds: float
    ) -> StreamT: ...

    @abstractmethod
    def _embeddings(self, texts: TextsT, head: embedding_pb2.EmbedRequest, seconds: float) -> EmbeddingsT: ...

    @abstractmethod
    def _embedding_stream(
        self, texts: TextsT, head: embedding_pb2.EmbedRequest, seconds: float
    ) -> EmbeddingStreamT: ...

    @abstractmethod
    def _scores(self, ask: Ask[Scores]) -> ScoresT: ...

    @abstractmethod
    def _score_batch(self, ask: Ask[tuple[Scores, ...]]) -> ScoreBatchT: ...

    @abstractmethod
    def _tokenizations(self, ask: Ask[Tokenizations]) -> TokenizationsT: ...

    @abstractmethod
    def _strings(self, ask: Ask[tuple[str, ...]]) -> StringsT: ...

    @abstractmethod
    def _server_info(self, ask: Ask[ServerInfo]) -> ServerInfoT: ...

    @abstractmethod
    def _models(self, seconds: float) -> ModelsT: ...

    @abstractmethod
    def _model(self, ask: Ask[ModelInfo]) -> ModelT: ...
