"""
Jinja for chat templates as transformers has it, with a limit on what a template may do.

A template is part of a checkpoint, and a checkpoint comes from anywhere. Jinja's sandbox keeps it from Python's
insides; what it leaves open is time and memory, and these are bounded here, for each rendering:
- every turn of a loop, call of a macro and test of a loop's filter spends a step, and with it the text that it holds;
  `range` gives at most 10,000 numbers;
- every value that is printed, to the text or to a variable, spends its characters, as do strings joined by `~`;
- a string or list that an operator, filter or method makes has at most MAX_CHARACTERS, and what would be longer by far
  is refused before it is made.
Not bounded: what printing a list that holds the same long texts over and over takes.
"""

import functools
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sized
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_CHARACTERS = 4 * 1024 * 1024
MAX_STEPS = 100_000
MAX_RANGE = 10_000
BUDGET = "stretto budget"  # no template can say a name with a blank in it
GROWING = frozenset(
    {"replace", "join", "indent", "wordwrap", "expandtabs", "batch", "slice", "center", "ljust", "rjust", "zfill"}
)
WIDTH = re.compile(r"\d{5,}|\*|\{[^}]*\{")  # of a format: "%99999d", "{:99999}", "%*d", "{:{}}"


class TemplateRefusal(jinja2.TemplateError):
    """The template said no, with raise_exception, or asked for too much."""


class Budget:
    """What is left to one rendering."""

    def __init__(self) -> None:
        self.steps = MAX_STEPS
        self.characters = 4 * MAX_CHARACTERS  # text is often made twice, in a variable and then printed

    def spend(self, characters: int) -> None:
        self.steps -= 1
        self.characters -= characters
        if self.steps < 0:
            raise TemplateRefusal(f"it takes more than {MAX_STEPS:,} steps")
        if self.characters < 0:
            raise TemplateRefusal(f"it makes more than {4 * MAX_CHARACTERS:,} characters on the way")


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """What compiles templates; safe to share, the budget of a rendering is in its context."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[loopcontrols, Generation, Counting],
            finalize=_count_printed,
        )
        self.filters = {name: _bounded(name, function) for name, function in self.filters.items()}
        self.filters["tojson"] = _tojson
        self.globals["raise_exception"] = _raise_exception
        self.globals["range"] = _range
        del self.globals["lipsum"]

    def compile_template(self, source: str) -> jinja2.Template:
        """Compile, with the counting put in; raises TemplateSyntaxError."""
        return self.from_string(Counting.counted(self, self.parse(source)))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        _check_operands(operator, left, right)
        return _checked(super().call_binop(context, operator, left, right))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        owner = getattr(getattr(__obj, "__wrapped__", __obj), "__self__", None)  # the sandbox wraps str.format
        if isinstance(owner, str):
            _check_arguments(__obj.__name__, (owner, *args, *kwargs.values()))
        return _checked(super().call(__context, __obj, *args, **kwargs))


def render(template: jinja2.Template, variables: Mapping[str, Any], now: datetime) -> str:
    """The text; raises TemplateRefusal, or whatever the template ran into."""
    values = {**variables, "strftime_now": now.strftime, BUDGET: Budget()}
    pieces, length = [], 0
    for piece in template.generate(values):
        length += len(piece)
        if length > MAX_CHARACTERS:
            raise TemplateRefusal(f"it makes a text of more than {MAX_CHARACTERS:,} characters")
        pieces.append(piece)
    return "".join(pieces)


class Generation(Extension):
    """`{% generation %}` marks what the assistant wrote, for training; here it only has to be read."""

    tags = {"generation"}  # noqa: RUF012 (jinja declares it as an instance's)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class Counting(Extension):
    """Puts a step of the budget before everything in a template that can happen again."""

    @staticmethod
    def counted(environment: jinja2.Environment, template: nodes.Template) -> nodes.Template:
        counting = environment.extensions[Counting.identifier]
        assert isinstance(counting, Counting)
        for concat in list(template.find_all(nodes.Concat)):
            concat.nodes = [counting._call("joined", [nodes.List(concat.nodes)])]
        for loop in list(template.find_all(nodes.For)):
            loop.body.insert(0, counting._step(loop.body))
            if loop.test is not None:
                loop.test = nodes.And(counting._call("step", [nodes.Const(0)]), loop.test)
        macros = [macro.body for macro in template.find_all(nodes.Macro)]
        for body in [*macros, *(block.body for block in template.find_all(nodes.CallBlock))]:
            body.insert(0, counting._step(body))
        template.set_environment(environment)
        return template

    def step(self, context: Context, characters: int) -> bool:
        context[BUDGET].spend(characters)
        return True

    def joined(self, context: Context, values: list[Any]) -> str:
        texts = [str(value) for value in values]
        context[BUDGET].spend(sum(map(len, texts)))
        return "".join(texts)

    def _step(self, body: list[nodes.Node]) -> nodes.ExprStmt:
        held = sum(len(data.data) for node in body for data in _data_of(node))
        return nodes.ExprStmt(self._call("step", [nodes.Const(held)]))

    def _call(self, name: str, arguments: list[nodes.Expr]) -> nodes.Call:
        return self.call_method(name, [nodes.ContextReference(), *arguments])


def _data_of(node: nodes.Node) -> Iterator[nodes.TemplateData]:
    if isinstance(node, nodes.TemplateData):
        yield node
    yield from node.find_all(nodes.TemplateData)


@jinja2.pass_context
def _count_printed(context: Context, value: Any) -> Any:
    """Called with every value that is printed, wherever to."""
    if isinstance(value, str):
        context[BUDGET].spend(len(value))
    return value


def _bounded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        _check_arguments(name, (*args, *kwargs.values()))
        return _checked(function(*args, **kwargs))

    return bounded


def _check_arguments(name: str, values: tuple[Any, ...]) -> None:
    """Refuse what would make a very long text, because its arguments multiply each other."""
    if name in GROWING and math.prod(map(_size, values)) > 64 * MAX_CHARACTERS:
        raise TemplateRefusal(f"{name} would make too long a text")
    if name in ("format", "format_map") and WIDTH.search(str(values[0])):
        raise TemplateRefusal(f"{name} has a width of five digits or more")


def _check_operands(operator: str, left: Any, right: Any) -> None:
    if operator == "%" and isinstance(left, str) and WIDTH.search(left):
        raise TemplateRefusal("% has a width of five digits or more")
    if operator == "*" and _size(left) * _size(right) > MAX_CHARACTERS and not _is_number(left, right):
        raise TemplateRefusal("* would make too long a text")
    if operator in ("*", "**") and isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
        if bits > MAX_RANGE:
            raise TemplateRefusal(f"{operator} would make too large a number")


def _is_number(*values: Any) -> bool:
    return all(isinstance(value, int | float) for value in values)


def _size(value: Any) -> int:
    if isinstance(value, int):
        return max(1, abs(value))
    if isinstance(value, list | tuple) and all(isinstance(part, str) for part in value):
        return max(1, len(value), sum(map(len, value)))
    return max(1, len(value)) if isinstance(value, str | list | tuple) else 1


def _checked(value: Any) -> Any:
    if isinstance(value, Sized) and not isinstance(value, range) and len(value) > MAX_CHARACTERS:
        raise TemplateRefusal(f"it makes a value of more than {MAX_CHARACTERS:,} characters")
    return value


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As transformers has it: jinja's own would escape for HTML."""
    if indent is not None and indent > 64:
        raise TemplateRefusal(f"tojson has an indent of {indent}")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _range(*bounds: int) -> range:
    numbers = range(*bounds)
    if len(numbers) > MAX_RANGE:
        raise TemplateRefusal(f"range gives {len(numbers):,} numbers; the limit is {MAX_RANGE:,}")
    return numbers


def _raise_exception(message: object) -> None:
    raise TemplateRefusal(str(message))
