"""A chat template renders as in transformers, and can neither take more than its share nor reach Python."""

import json
from datetime import datetime
from typing import Any

import pytest
from jinja2.exceptions import SecurityError, UndefinedError
from transformers.utils.chat_template_utils import render_jinja_template

from stretto.engine.text.template_sandbox import MAX_CHARACTERS, TemplateEnvironment, TemplateRefusal, render

MESSAGES = [{"role": "user", "content": "Ärger <b> & 'Ruhe'"}, {"role": "assistant", "content": "世界\n"}]
SAME = (
    "{% for m in messages %}\n  {% if m.role == 'user' %}\n    {{ m.content }}\n  {% endif %}\n{% endfor %}\n",
    "{{ messages | tojson }}{{ messages[0] | tojson(indent=2) }}",
    "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m.role ~ '/' ~ loop.index }}{% endfor %}",
    "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "{% set ns = namespace(found=0) %}{% for m in messages if m.role == 'user' %}{% set ns.found = ns.found + 1 %}"
    "{% endfor %}{{ ns.found }}",
    "{% macro say(x, n=2) %}{{ x * n }}{% endmacro %}{{ say('ab') }}{{ say(messages[0].content[:3], 3) }}",
    "{% macro twice() %}{{ caller() }}{{ caller() }}{% endmacro %}{% call twice() %}x{% endcall %}",
    "{{ 'a' ~ 1 ~ none ~ missing ~ [1, 'b'] }}",
    "{{ messages | map(attribute='role') | join(', ') }}{{ '%s-%d' | format('a', 3) }}{{ '{:>4}'.format('x') }}",
    "{% for x in [[1, [2, [3]]]] recursive %}{{ x if x is number else loop(x) }}{% endfor %}",
    "{{ range(5) | list }}{{ 7 // 2 }}{{ 2 ** 10 }}{{ 'x' | indent(4, true) }}{{ messages[0].content | trim | upper }}",
    "{% filter upper %}abc{% endfilter %}{% set t %}x{{ messages | length }}{% endset %}{{ t }}{{ tools is none }}",
)
GREEDY = {
    "nested loops": "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
    "a loop that filters all": "{% for a in range(99) %}{% for b in range(9999) if false %}{% endfor %}{% endfor %}",
    "range": "{% for a in range(1000000000) %}{% endfor %}",
    "recursive loops": "{% for a in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}",
    "recursive macros": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "endless macros": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "much text": "{% for a in range(9999) %}" + "x" * 1000 + "{% endfor %}",
    "times": "{{ 'x' * 1000000000 }}",
    "list times": "{{ [1] * 1000000000 }}",
    "doubling by +": "{% set n = namespace(s='xxxx') %}{% for a in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}",
    "doubling by ~": "{% set n = namespace(s='xxxx') %}{% for a in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
    "in a set": "{% set n = namespace(s='xxxx') %}{% for a in range(60) %}{% set t %}{{ n.s }}{{ n.s }}{% endset %}"
    "{% set n.s = t %}{% endfor %}",
    "doubling lists": "{% set n = namespace(s=[1]) %}{% for a in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}",
    "power": "{{ 9 ** 99999999 }}",
    "shifts by times": "{% set n = namespace(i=9) %}{% for a in range(99) %}{% set n.i = n.i * n.i %}{% endfor %}",
    "width by %": "{{ '%1000000000d' % 1 }}",
    "width by %*": "{{ '%*d' % (1000000000, 1) }}",
    "width by format": "{{ '{:1000000000}'.format(1) }}",
    "width in format": "{{ '{:{}}'.format(1, 1000000000) }}",
    "width by the filter": "{{ '%1000000000d' | format(1) }}",
    "center": "{{ 'x' | center(1000000000) }}",
    "ljust": "{{ 'x'.ljust(1000000000) }}",
    "zfill": "{{ 'x'.zfill(1000000000) }}",
    "indent": "{{ 'x' | indent(1000000000, true) }}",
    "tojson": "{{ [1] | tojson(indent=1000000000) }}",
    "replace": "{{ ('x' * 1000000).replace('', 'x' * 1000000) }}",
    "the filter replace": "{{ ('x' * 1000000) | replace('x', 'y' * 1000000) }}",
    "join": "{{ ('x' * 1000000).join(['y'] * 1000000) }}",
    "batch": "{{ [1] | batch(1000000000, 'x') | list }}",
    "lipsum": "{{ lipsum(n=1000000) }}",
}  # fmt: skip


@pytest.fixture(scope="module")
def environment() -> TemplateEnvironment:
    return TemplateEnvironment()


def _render(environment: TemplateEnvironment, source: str, **variables: Any) -> str:
    values = {"messages": MESSAGES, "tools": None, "documents": None, **variables}
    return render(environment.compile_template(source), values, datetime(2024, 7, 26))


@pytest.mark.parametrize("source", SAME)
def test_a_template_renders_as_in_transformers(environment: TemplateEnvironment, source: str) -> None:
    wanted = render_jinja_template(conversations=[MESSAGES], chat_template=source)[0][0]
    assert _render(environment, source) == wanted


def test_json_keeps_characters_as_they_are(environment: TemplateEnvironment) -> None:
    assert _render(environment, "{{ messages | tojson }}") == json.dumps(MESSAGES, ensure_ascii=False)


def test_the_date_is_the_one_that_was_given(environment: TemplateEnvironment) -> None:
    assert _render(environment, "{{ strftime_now('%d %B %Y') }}") == "26 July 2024"


@pytest.mark.parametrize("what", GREEDY)
def test_a_template_that_takes_too_much_is_stopped(environment: TemplateEnvironment, what: str) -> None:
    with pytest.raises((TemplateRefusal, RecursionError, UndefinedError)):  # undefined: it is not there to be called
        _render(environment, GREEDY[what])


def test_a_text_of_four_million_characters_is_the_longest(environment: TemplateEnvironment) -> None:
    assert len(_render(environment, "{{ text }}", text="x" * MAX_CHARACTERS)) == MAX_CHARACTERS
    with pytest.raises(TemplateRefusal, match=r"more than 4,194,304 characters"):
        _render(environment, "{{ text }}", text="x" * (MAX_CHARACTERS + 1))


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception.__globals__.keys() }}",
        "{{ strftime_now.__self__.__class__.mro() }}",
        "{{ messages[0].update({'role': 'x'}) }}",
    ],
)
def test_a_template_reaches_neither_python_nor_its_arguments(environment: TemplateEnvironment, source: str) -> None:
    with pytest.raises((SecurityError, UndefinedError)):
        _render(environment, source)


def test_each_rendering_has_a_budget_of_its_own(environment: TemplateEnvironment) -> None:
    source = "{% for a in range(9000) %}{% endfor %}"
    for _ in range(20):
        assert _render(environment, source) == ""
