"""Proves what the log shows of errors and of other libraries, and that no local variable gets into it."""

import io
import json
import logging

import pytest

from stretto.server.logs import Forwarding, open_log


def failing(logger, secret):
    kept = secret + "!"
    try:
        raise RuntimeError("what went wrong")
    except RuntimeError:
        logger.exception("unexpected error", error_id=str(len(kept)))


@pytest.mark.parametrize("format_", ["human", "json"])
@pytest.mark.parametrize("colours", [False, True])
def test_a_traceback_is_logged_without_the_values_of_variables(format_, colours):
    stream = io.StringIO()
    failing(open_log(format=format_, level="info", stream=stream, colours=colours), "canary" + "7f3a")
    assert "RuntimeError: what went wrong" in stream.getvalue()
    assert "in failing" in stream.getvalue()
    assert "canary7f3a" not in stream.getvalue()


def test_a_line_for_people_keeps_the_order_of_its_facts():
    stream = io.StringIO()
    open_log(format="human", level="info", stream=stream, colours=False).info("request", id="z", code="OK", a=1)
    assert stream.getvalue().endswith("[info     ] request id=z code=OK a=1\n")


def test_what_is_below_the_level_is_left_out():
    stream = io.StringIO()
    logger = open_log(format="json", level="warning", stream=stream, colours=False)
    logger.info("quiet")
    logger.warning("loud")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["loud"]


def test_warnings_of_libraries_arrive_under_their_name():
    stream = io.StringIO()
    handler = Forwarding(open_log(format="json", level="info", stream=stream, colours=False))
    library = logging.Logger("some.library")
    library.addHandler(handler)
    library.info("not this")
    library.warning("this %s", "one")
    (line,) = map(json.loads, stream.getvalue().splitlines())
    assert (line["event"], line["library"], line["level"]) == ("this one", "some.library", "warning")
