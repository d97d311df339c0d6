"""A model as the server process knows it: checkpoint, tokenizer, limits. Prompts become messages here. No torch."""

from stretto.engine.bounds import check_ids
from stretto.engine.checkpoint.digest import version_of
from stretto.engine.checkpoint.headers import Checkpoint, open_checkpoint
from stretto.engine.config import LoadSpec
from stretto.engine.drawing import check_choice, decided, sampling_defaults
from stretto.engine.errors import CheckpointError, EmptyInput, InputTooLong, InvalidRequest, ReplyTooLarge
from stretto.engine.inputs import EMBED_OVERFLOW, EmbedReader
from stretto.engine.messages import Draw, Generate, Load
from stretto.engine.requests import Chat, GenerateCall, Overflow, Task, TextPrompt, TokenPrompt
from stretto.engine.results import InputReport, ModelCard
from stretto.engine.text.answer import AnswerSpec
from stretto.engine.text.chat import ChatTemplates
from stretto.engine.text.tokenizer import Tokenizer, load_tokenizer
from stretto.engine.text.truncation import fit

GENERATE_OVERFLOW = Overflow.ERROR


class Served:
    """Everything of one model that needs no weights. Only `card` changes: the core keeps it current."""

    def __init__(self, spec: LoadSpec, checkpoint: Checkpoint, tokenizer: Tokenizer) -> None:
        self.spec = spec
        self.checkpoint = checkpoint
        self.tokenizer = tokenizer
        self.templates = ChatTemplates(checkpoint)
        self.limit_ids = min(tokenizer.size, checkpoint.vocab_size)
        self.card = self._card()
        self.inputs = EmbedReader(checkpoint, tokenizer, self.card)

    @classmethod
    def open(cls, spec: LoadSpec) -> "Served":
        """Read all but the weights; raises CheckpointError."""
        checkpoint = open_checkpoint(spec.path)
        tokenizer = load_tokenizer(checkpoint)
        if Task.GENERATE in checkpoint.tasks and not tokenizer.generates:
            raise CheckpointError(
                f"{spec.path}: its vocabulary has no bytes for its tokens, so that it can't write text."
            )
        last = max(tokenizer.named_ids, default=0)
        if last >= checkpoint.vocab_size:
            raise CheckpointError(
                f"{spec.path}: its tokenizer or configuration has the token {last} begin or end a text; "
                f"the model's ids go from 0 to {checkpoint.vocab_size - 1}."
            )
        return cls(spec, checkpoint, tokenizer)

    def version(self) -> str:
        """The digest of the checkpoint's files; reads them all."""
        return version_of(self.checkpoint)

    def load_message(self) -> Load:
        spec = self.spec
        return Load(
            name=spec.name,
            path=str(spec.path),
            dtype=spec.dtype,
            device=spec.device,
            cache_bytes=spec.cache_bytes,
            limit_ids=self.limit_ids,
        )

    # Generation

    def prompt(self, call: GenerateCall) -> tuple[list[int], InputReport]:
        """The prompt's token ids, cut as the call allows, and what was cut; raises InputTooLong and the like."""
        body, head, tail, field = self._prompt_parts(call)
        tail = (*tail, *self._response_prefix(call))
        if not (body or head or tail):
            raise EmptyInput("the prompt is empty: a model needs at least one token to go on from.", field=field)
        room = self.context - (0 if call.stopping.max_tokens == 0 else 1)
        limit = min(call.max_prompt_tokens or room, room)
        try:
            ids, cut = fit(body, limit, call.overflow or GENERATE_OVERFLOW, head=head, tail=tail, name=field)
        except InputTooLong as error:
            small = limit == room and self.context < self.checkpoint.context
            hint = f" The server's cache holds {self.context} tokens; --cache-memory can raise that." if small else ""
            raise InputTooLong(error.message + hint, field=field, metadata=error.metadata) from None
        self.check_encoded(ids, field)
        return ids, self.report(ids, cut)

    def generate_message(self, call: GenerateCall, message_id: int, ids: list[int]) -> tuple[Generate, AnswerSpec]:
        """What to ask the engine, and how to read its answer."""
        stopping, options = call.stopping, call.options
        draw = decided(call.sampling, self.card.default_sampling, self.tokenizer, self.limit_ids)
        if draw.temperature == 0 and call.sampling.drawn > 1:
            path = "config.sampling.candidate_count" if call.sampling.candidates > 1 else "config.sampling.best_of"
            raise InvalidRequest(f"{path} is {call.sampling.drawn} at temperature 0: all would be equal.", field=path)
        check_ids(stopping.token_ids, self.checkpoint.vocab_size, "config.stopping.stop_token_ids")
        check_ids(call.output.logprob_token_ids, self.limit_ids, "config.output.logprob_token_ids")
        room = self.context - len(ids)
        max_tokens = room if stopping.max_tokens is None else min(stopping.max_tokens, room)
        self._check_resumed(call, draw)
        _check_reply(call, len(ids), max_tokens)
        eos = () if stopping.ignore_eos else self.tokenizer.eos_ids
        stop_ids = sorted({*eos, *stopping.token_ids})
        message = Generate(
            id=message_id,
            model=self.spec.name,
            prompt=ids,
            draw=draw,
            max_tokens=max_tokens,
            min_tokens=min(stopping.min_tokens, max_tokens),
            candidates=call.sampling.drawn,
            suffixes=[list(ids_) for ids_ in call.resume_after],
            score_prompt=call.output.prompt_logprobs,
            score_suffixes=bool(call.resume_after),
            progress=call.progress,
            stop_ids=stop_ids,
            top=call.output.top_logprobs or 0,
            also=list(call.output.logprob_token_ids),
            priority=options.priority,
            deadline=options.deadline,
            start_by=options.start_by,
            stop_at=None if stopping.time_limit is None else options.received + stopping.time_limit,
            scope=options.scope,
            share_prefix=options.use_prefix_cache,
        )
        check_choice(message)
        return message, AnswerSpec(
            call=call,
            tokenizer=self.tokenizer,
            prompt=ids,
            stop_ids=frozenset(stop_ids),
            max_tokens=max_tokens,
            context_bound=stopping.max_tokens is None or stopping.max_tokens > room,
        )

    # Inside

    @property
    def context(self) -> int:
        """How many tokens one sequence may have."""
        return self.card.max_sequence_tokens

    def _prompt_parts(self, call: GenerateCall) -> tuple[list[int], tuple[int, ...], tuple[int, ...], str]:
        """The prompt's own tokens, the special ones before and after, and the field that it came from."""
        match call.prompt:
            case TextPrompt() as prompt:
                (body,) = self.tokenizer.encode(
                    [prompt.text], add_special_tokens=False, parse_special_tokens=prompt.parse_special_tokens
                )
                wrap = prompt.add_special_tokens
                return body, self.tokenizer.head if wrap else (), self.tokenizer.tail if wrap else (), "text"
            case TokenPrompt() as prompt:
                check_ids(prompt.ids, self.checkpoint.vocab_size, "token_ids")
                return list(prompt.ids), (), (), "token_ids"
            case Chat() as chat:
                return self.templates.encode(chat, self.tokenizer), (), (), "chat"

    def _response_prefix(self, call: GenerateCall) -> list[int]:
        """The forced start of the answer. Like all that is typed in a chat, it holds no control token there."""
        if not call.response_prefix:
            return []
        parse = isinstance(call.prompt, TextPrompt) and call.prompt.parse_special_tokens
        (ids,) = self.tokenizer.encode_inner([call.response_prefix], parse_special_tokens=parse)
        self.check_encoded(ids, "response_prefix")
        return ids

    def _check_resumed(self, call: GenerateCall, draw: Draw) -> None:
        """Each candidate has its ids, and they are drawn with the seed of the first attempt."""
        if not call.resume_after:
            return
        num, candidates = len(call.resume_after), call.sampling.drawn
        if num != candidates:
            raise InvalidRequest(
                f"resume_after holds the ids of {num} candidates; there are {candidates}.",
                field="resume_after",
            )
        if call.sampling.seed is None and draw.temperature > 0:
            raise InvalidRequest(
                "config.sampling.seed is unset: a drawn answer is resumed with the seed of its first attempt.",
                field="config.sampling.seed",
            )
        for index, ids in enumerate(call.resume_after):
            check_ids(ids, self.limit_ids, f"resume_after[{index}]")

    def check_encoded(self, ids: list[int], field: str) -> None:
        """Some tokenizers have more tokens than their model: a text that uses one of those is refused, by name."""
        if self.tokenizer.size > self.checkpoint.vocab_size:
            check_ids(tuple(ids), self.checkpoint.vocab_size, field)

    def report(self, ids: list[int], cut: int) -> InputReport:
        unknown = 0 if self.tokenizer.unknown_id is None else ids.count(self.tokenizer.unknown_id)
        return InputReport(token_count=len(ids), truncated_tokens=cut, unknown_token_count=unknown)

    def _card(self) -> ModelCard:
        checkpoint, sentence, tasks = self.checkpoint, self.checkpoint.sentence, self.checkpoint.tasks
        generates = Task.GENERATE in tasks
        defaults = {Task.GENERATE: GENERATE_OVERFLOW, Task.SCORE: GENERATE_OVERFLOW, Task.EMBED: EMBED_OVERFLOW}
        return ModelCard(
            name=self.spec.name,
            source=self.spec.source,
            state="loading",
            architecture=checkpoint.family.name,
            tasks=tasks,
            parameters=checkpoint.parameter_count,
            vocab_size=checkpoint.vocab_size,
            context=checkpoint.context,
            max_input_tokens=min(sentence.max_tokens or checkpoint.context, checkpoint.context),
            embedding_dimensions=checkpoint.width,
            default_overflow={task: defaults[task] for task in tasks},
            default_pooling=sentence.pooling or checkpoint.family.default_pooling,
            default_normalize=bool(sentence.normalize),
            default_sampling=sampling_defaults(checkpoint) if generates else {},
            prompts=sentence.prompts,
            has_chat_template=generates and bool(checkpoint.chat_templates),
            eos_token_ids=tuple(sorted(self.tokenizer.eos_ids)),
            bos_token_id=self.tokenizer.bos_id,
            notes=checkpoint.notes + self._surplus_note(),
        )

    def _surplus_note(self) -> tuple[str, ...]:
        tokens, known = self.tokenizer.size, self.checkpoint.vocab_size
        note = (
            f"the tokenizer has {tokens:,} tokens, the model {known:,}: a text that needs one of the others is refused."
        )
        return (note,) if tokens > known else ()


def _check_reply(call: GenerateCall, num_prompt: int, max_tokens: int) -> None:
    """Refuse logprobs that would not fit the reply, before any of them is computed."""
    output = call.output
    each = output.logprobs_each
    prompt = num_prompt * each if output.prompt_logprobs else 0
    for most, entries in ((call.max_message_logprobs, prompt), (call.max_logprobs, prompt)):
        if most is not None and entries > most:
            raise ReplyTooLarge(
                f"The logprobs of {num_prompt} prompt tokens, {each} at each, do not fit the reply: it has room for "
                f"{most // each} positions. Ask for fewer alternatives, or cut the prompt.",
                field="config.output.include_prompt_logprobs",
                metadata={"positions": str(num_prompt), "max_positions": str(most // each)},
            )
    if call.max_logprobs is None or output.top_logprobs is None:
        return
    fit = (call.max_logprobs - prompt) // (each * call.sampling.candidates)
    if max_tokens > fit:
        raise ReplyTooLarge(
            f"The logprobs of up to {max_tokens} tokens, {each} at each, of {call.sampling.candidates} candidates may "
            f"not fit the reply: at most {fit} tokens do. Set max_tokens to that or less, or use GenerateStream.",
            field="config.stopping.max_tokens",
            metadata={"max_tokens": str(max_tokens), "fit": str(fit)},
        )
