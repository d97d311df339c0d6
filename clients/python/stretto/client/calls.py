"""
The calls that both clients have, written once: names, arguments, documentation; how each is waited for is the clients'.

This file is long because every argument stands in every signature, where an editor and `help()` find it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from stretto.client import requests
from stretto.client.channel import checked_timeout, connection
from stretto.client.requests import Message, Pooling, Prompt, Truncate
from stretto.v1 import embedding_pb2, generation_pb2

GenerationT = TypeVar("GenerationT")
StreamT = TypeVar("StreamT")
EmbeddingsT = TypeVar("EmbeddingsT")
ModelsT = TypeVar("ModelsT")
ModelT = TypeVar("ModelT")


class Calls(ABC, Generic[GenerationT, StreamT, EmbeddingsT, ModelsT, ModelT]):
    """A connection to one server. Safe to share between threads (`Client`) or tasks of one loop (`AsyncClient`).

    `target` is host:port, "dns:///name:port" or "unix:/path"; default: the environment's STRETTO_TARGET, else
    127.0.0.1:50051. `timeout` is the seconds that a call may take where it does not say otherwise; there is no way
    to wait for ever. `token` is sent as a bearer token with every call, over plain text too unless `tls` (the system's
    roots) or `root_certificates` (a PEM file; implies tls) is given. `metadata` is sent with every call.

    A call that no server has begun (nothing answers, or the server is stopping) is tried up to three times within
    its timeout. Every error is a `stretto.client.StrettoError`.
    """

    def __init__(
        self,
        target: str | None = None,
        *,
        timeout: float = 60.0,
        token: str | None = None,
        tls: bool = False,
        root_certificates: Path | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self._connection = connection(
            target, timeout=timeout, token=token, tls=tls, root_certificates=root_certificates, metadata=metadata
        )
        self._open()

    @property
    def target(self) -> str:
        """The address that is called."""
        return self._connection.target

    def generate(
        self,
        prompt: Prompt,
        *,
        model: str = "",
        max_tokens: int | None = None,
        min_tokens: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        seed: int | None = None,
        candidates: int | None = None,
        stop: str | Sequence[str] = (),
        stop_token_ids: Sequence[int] = (),
        ignore_eos: bool = False,
        include_stop: bool = False,
        time_limit: float | None = None,
        logprobs: bool = False,
        top_logprobs: int | None = None,
        echo: bool = False,
        skip_special_tokens: bool = True,
        truncate: Truncate | None = None,
        max_prompt_tokens: int | None = None,
        add_special_tokens: bool | None = None,
        parse_special_tokens: bool | None = None,
        template: str = "",
        template_arguments: Mapping[str, object] | None = None,
        expected_model_version: str = "",
        priority: int = 0,
        queue_timeout: float | None = None,
        cache_salt: str = "",
        use_prefix_cache: bool = True,
        telemetry: bool = False,
        request_id: str = "",
        timeout: float | None = None,
    ) -> GenerationT:
        """Continue `prompt`: a text, a list of token ids, or a list of messages (as `chat` does).

        Arguments left out are the checkpoint's defaults. `model` may stay empty where the server has one model that
        generates. `temperature` 0 is greedy. `seed` makes a drawn answer repeatable; the one used comes back.
        `candidates` answers to the same prompt, independently drawn. Generation ends at the end of the context, at
        `max_tokens`, at a `stop` text or a `stop_token_ids` id (left out of the answer unless `include_stop`), after
        `time_limit` seconds, or at the checkpoint's end token unless `ignore_eos`; `finish_reason` says which.
        `logprobs` adds each token's log probability, `top_logprobs` the n likeliest at each position.
        `echo` puts the prompt in front. `truncate` "end", "start" or "middle" cuts a prompt that is too long, to
        `max_prompt_tokens` where given, and `input.truncated_tokens` counts what was cut; "error" refuses it.
        `add_special_tokens` and `parse_special_tokens` say whether the tokenizer adds its own and whether control
        tokens written in a text are control tokens. `expected_model_version` refuses any other checkpoint.

        `priority`: larger runs earlier. `queue_timeout`: seconds to wait for a first step. `cache_salt` keeps cached
        prompts apart; `use_prefix_cache=False` neither reads nor writes them. `telemetry` asks for where the time
        went. `request_id` is yours to choose, else made here. `timeout`: seconds for the whole call.

        Raises InvalidRequest (`field` says where; InputTooLong, BadTokenId, ...), ModelNotFound, TaskNotSupported,
        Overloaded (`retry_after` seconds), DeadlineExceeded, Unavailable, ...
        """
        seconds = self._seconds(timeout)
        request = requests.generate_request(
            prompt,
            model=model,
            sampling=requests.sampling(
                temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed, candidates=candidates
            ),
            stopping=requests.stopping(
                max_tokens=max_tokens,
                min_tokens=min_tokens,
                stop=stop,
                stop_token_ids=stop_token_ids,
                ignore_eos=ignore_eos,
                include_stop=include_stop,
                time_limit=time_limit,
            ),
            output=requests.output(
                logprobs=logprobs,
                top_logprobs=top_logprobs,
                echo=echo,
                skip_special_tokens=skip_special_tokens,
            ),
            options=requests.options(
                request_id=request_id,
                priority=priority,
                timeout=seconds,
                queue_timeout=queue_timeout,
                cache_salt=cache_salt,
                use_prefix_cache=use_prefix_cache,
                telemetry=telemetry,
            ),
            truncate=truncate,
            max_prompt_tokens=max_prompt_tokens,
            add_special_tokens=add_special_tokens,
            parse_special_tokens=parse_special_tokens,
            template=template,
            template_arguments=template_arguments,
            expected_model_version=expected_model_version,
        )
        return self._generate(request, seconds)

    def chat(
        self,
        messages: Sequence[Message],
        *,
        model: str = "",
        max_tokens: int | None = None,
        min_tokens: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        seed: int | None = None,
        candidates: int | None = None,
        stop: str | Sequence[str] = (),
        stop_token_ids: Sequence[int] = (),
        ignore_eos: bool = False,
        include_stop: bool = False,
        time_limit: float | None = None,
        logprobs: bool = False,
        top_logprobs: int | None = None,
        echo: bool = False,
        skip_special_tokens: bool = True,
        truncate: Truncate | None = None,
        max_prompt_tokens: int | None = None,
        template: str = "",
        template_arguments: Mapping[str, object] | None = None,
        expected_model_version: str = "",
        priority: int = 0,
        queue_timeout: float | None = None,
        cache_salt: str = "",
        use_prefix_cache: bool = True,
        telemetry: bool = False,
        request_id: str = "",
        timeout: float | None = None,
    ) -> GenerationT:
        """Answer a conversation: `[{"role": "user", "content": "Hello"}]`, with the checkpoint's chat template.

        Control tokens written in a message stay text. `template` names one of the checkpoint's templates,
        `template_arguments` are further variables of it. Everything else is as in `generate`, and so is the result.
        """
        seconds = self._seconds(timeout)
        request = requests.generate_request(
            requests.messages(messages),
            model=model,
            sampling=requests.sampling(
                temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed, candidates=candidates
            ),
            stopping=requests.stopping(
                max_tokens=max_tokens,
                min_tokens=min_tokens,
                stop=stop,
                stop_token_ids=stop_token_ids,
                ignore_eos=ignore_eos,
                include_stop=include_stop,
                time_limit=time_limit,
            ),
            output=requests.output(
                logprobs=logprobs,
                top_logprobs=top_logprobs,
                echo=echo,
                skip_special_tokens=skip_special_tokens,
            ),
            options=requests.options(
                request_id=request_id,
                priority=priority,
                timeout=seconds,
                queue_timeout=queue_timeout,
                cache_salt=cache_salt,
                use_prefix_cache=use_prefix_cache,
                telemetry=telemetry,
            ),
            truncate=truncate,
            max_prompt_tokens=max_prompt_tokens,
            add_special_tokens=None,
            parse_special_tokens=None,
            template=template,
            template_arguments=template_arguments,
            expected_model_version=expected_model_version,
        )
        return self._generate(request, seconds)

    def stream(
        self,
        prompt: Prompt,
        *,
        model: str = "",
        max_tokens: int | None = None,
        min_tokens: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        seed: int | None = None,
        candidates: int | None = None,
        stop: str | Sequence[str] = (),
        stop_token_ids: Sequence[int] = (),
        ignore_eos: bool = False,
        include_stop: bool = False,
        time_limit: float | None = None,
        logprobs: bool = False,
        top_logprobs: int | None = None,
        echo: bool = False,
        skip_special_tokens: bool = True,
        truncate: Truncate | None = None,
        max_prompt_tokens: int | None = None,
        add_special_tokens: bool | None = None,
        parse_special_tokens: bool | None = None,
        template: str = "",
        template_arguments: Mapping[str, object] | None = None,
        min_tokens_per_piece: int = 0,
        expected_model_version: str = "",
        priority: int = 0,
        queue_timeout: float | None = None,
        cache_salt: str = "",
        use_prefix_cache: bool = True,
        telemetry: bool = False,
        request_id: str = "",
        timeout: float | None = None,
    ) -> StreamT:
        """Continue `prompt`, a text, a list of token ids or a list of messages, piece by piece as it is made.

        Iterating gives `Piece`s: whole characters, never half a stop text. Leaving the loop by any way, closing the
        stream, or dropping it cancels the request on the server. `usage`, `seed`, `input`, `provenance` and
        `telemetry` stand on the stream itself. Arguments and errors are those of `generate` and `chat`; errors of
        the server come out of the loop. `min_tokens_per_piece` gathers tokens, but for the first and the last piece.
        """
        seconds = self._seconds(timeout)
        request = requests.generate_request(
            prompt,
            model=model,
            sampling=requests.sampling(
                temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed, candidates=candidates
            ),
            stopping=requests.stopping(
                max_tokens=max_tokens,
                min_tokens=min_tokens,
                stop=stop,
                stop_token_ids=stop_token_ids,
                ignore_eos=ignore_eos,
                include_stop=include_stop,
                time_limit=time_limit,
            ),
            output=requests.output(
                logprobs=logprobs,
                top_logprobs=top_logprobs,
                echo=echo,
                skip_special_tokens=skip_special_tokens,
            ),
            options=requests.options(
                request_id=request_id,
                priority=priority,
                timeout=seconds,
                queue_timeout=queue_timeout,
                cache_salt=cache_salt,
                use_prefix_cache=use_prefix_cache,
                telemetry=telemetry,
            ),
            truncate=truncate,
            max_prompt_tokens=max_prompt_tokens,
            add_special_tokens=add_special_tokens,
            parse_special_tokens=parse_special_tokens,
            template=template,
            template_arguments=template_arguments,
            expected_model_version=expected_model_version,
        )
        return self._stream(requests.stream_request(request, min_tokens_per_piece), seconds)

    def embed(
        self,
        texts: Sequence[str] | Sequence[Sequence[int]],
        *,
        model: str = "",
        pooling: Pooling | None = None,
        normalize: bool | None = None,
        dimensions: int | None = None,
        prompt_name: str | None = None,
        prompt_text: str | None = None,
        truncate: Truncate | None = None,
        priority: int = 0,
        queue_timeout: float | None = None,
        telemetry: bool = False,
        request_id: str = "",
        timeout: float | None = None,
    ) -> EmbeddingsT:
        """One vector for each of `texts` (or lists of token ids, taken as they are), in their order.

        The result is a sequence and an array: `result.vectors` and `numpy.asarray(result)` are [n, d] float32 where
        numpy is installed (a list of n lists of d floats else), `result.shape` is (n, d), `result[i].vector` is [d].
        A text that fails does not fail the others: `result[i].error` says why, and asking for the whole array raises
        that error.

        Arguments left out are as saved in the checkpoint. `pooling` is "cls", "mean", "max", "last_token",
        "weighted_mean" or "mean_sqrt_len"; `normalize` scales vectors to length 1; `dimensions` keeps the first d
        (for checkpoints trained for it), then normalises. `prompt_name` is one of the checkpoint's prompts ("query"),
        `prompt_text` is put in front literally. `truncate` "end", "start" or "middle" cuts a text that is too long
        (`result[i].input.truncated_tokens` counts what was cut), "error" fails it. The rest is as in `generate`.

        Raises InvalidRequest (BatchTooLarge and ReplyTooLarge say how many texts fit), ModelNotFound,
        TaskNotSupported, Overloaded (`retry_after` seconds), DeadlineExceeded, Unavailable, ...
        """
        seconds = self._seconds(timeout)
        request = requests.embed_request(
            texts,
            model=model,
            pooling=pooling,
            normalize=normalize,
            dimensions=dimensions,
            prompt_name=prompt_name,
            prompt_text=prompt_text,
            truncate=truncate,
            options=requests.options(
                request_id=request_id,
                priority=priority,
                timeout=seconds,
                queue_timeout=queue_timeout,
                cache_salt="",
                use_prefix_cache=True,
                telemetry=telemetry,
            ),
        )
        return self._embed(request, seconds)

    def models(self, *, timeout: float | None = None) -> ModelsT:
        """Every model of the server with its live state, as a tuple of `ModelInfo`."""
        return self._models(self._seconds(timeout))

    def model(self, name: str, *, timeout: float | None = None) -> ModelT:
        """The model of that name or alias as a `ModelInfo`; raises ModelNotFound."""
        return self._model(name, self._seconds(timeout))

    def _seconds(self, timeout: float | None) -> float:
        return self._connection.timeout if timeout is None else checked_timeout(timeout)

    @abstractmethod
    def _open(self) -> None: ...

    @abstractmethod
    def _generate(self, request: generation_pb2.GenerateRequest, seconds: float) -> GenerationT: ...

    @abstractmethod
    def _stream(self, request: generation_pb2.GenerateStreamRequest, seconds: float) -> StreamT: ...

    @abstractmethod
    def _embed(self, request: embedding_pb2.EmbedRequest, seconds: float) -> EmbeddingsT: ...

    @abstractmethod
    def _models(self, seconds: float) -> ModelsT: ...

    @abstractmethod
    def _model(self, name: str, seconds: float) -> ModelT: ...
