"""Proves what one client may ask: buckets against a plain simulation, exact waits, and nothing kept of the idle."""

import asyncio
import random
from contextlib import ExitStack

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from stretto.engine.errors import EngineLost, InvalidRequest, Overloaded, QueueTimeout
from stretto.server.auth import new_token
from stretto.server.config import ConfigError, load
from stretto.server.errors import TenantLimit
from stretto.server.rates import Rate, Rates, client_of
from stretto.v1 import common_pb2, model_pb2
from stretto.v1 import embedding_pb2 as embed_pb
from stretto.v1 import generation_pb2 as pb


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def rates(clock, *, requests=None, tokens=None, max_streams=0):
    def rate(pair, unit):
        return Rate(per_second=pair[0], burst=pair[1], unit=unit) if pair else None

    return Rates(
        requests=rate(requests, "requests"), tokens=rate(tokens, "tokens"), max_streams=max_streams, clock=clock
    )


def ask(limits, client="a", *, tokens=0, counted=None):
    """One whole request; None if it was let in, else the refusal."""
    try:
        with limits.admitted(client, tokens=tokens, streaming=False) as charge:
            if counted is not None:
                charge.correct(counted)
    except TenantLimit as refusal:
        return refusal
    return None


def test_a_burst_is_let_in_and_then_one_request_each_interval(clock):
    limits = rates(clock, requests=(2, 3))
    assert [ask(limits) is None for _ in range(4)] == [True, True, True, False]
    clock.now += 0.5
    assert [ask(limits) is None for _ in range(2)] == [True, False]


@pytest.mark.parametrize("seed", range(5))
def test_a_refusal_says_exactly_when_the_request_fits(clock, seed):
    drawn = random.Random(seed)
    limits = rates(clock, requests=(drawn.uniform(0.1, 5), 2), tokens=(drawn.uniform(1, 100), drawn.uniform(10, 200)))
    num_refused = 0
    for _ in range(300):
        cost = drawn.randrange(300)
        if refusal := ask(limits, tokens=cost):
            num_refused += 1
            begun = clock.now
            clock.now = begun + 0.999 * refusal.retry_after
            assert ask(limits, tokens=cost)
            clock.now = begun + refusal.retry_after
            assert ask(limits, tokens=cost) is None
        clock.now += drawn.uniform(0, 0.2)
    assert num_refused > 50


def test_over_a_long_time_no_client_gets_more_than_its_rate_and_one_burst(clock):
    limits = rates(clock, tokens=(10, 50))
    drawn, begun, granted = random.Random(1), clock.now, 0
    for _ in range(3000):
        cost = drawn.randrange(1, 50)
        granted += cost if ask(limits, tokens=cost) is None else 0
        clock.now += 0.1
    assert 0.95 * 10 * (clock.now - begun) < granted <= 10 * (clock.now - begun) + 50


def test_what_is_larger_than_the_burst_passes_once_the_bucket_is_full_and_is_paid_off_after(clock):
    limits = rates(clock, tokens=(10, 50))
    assert ask(limits, tokens=150) is None
    refusal = ask(limits, tokens=1)
    assert refusal.retry_after == pytest.approx(10.1)
    clock.now += 14.9
    assert ask(limits, tokens=150)
    clock.now += 0.1
    assert ask(limits, tokens=150) is None


def test_tokens_are_charged_as_they_are_counted_not_as_they_were_guessed(clock):
    limits = rates(clock, tokens=(10, 100))
    assert ask(limits, tokens=100, counted=25) is None
    assert ask(limits, tokens=75, counted=75) is None
    assert ask(limits, tokens=1).retry_after == pytest.approx(0.1)


def test_a_refused_request_costs_nothing(clock):
    limits = rates(clock, requests=(1, 5), tokens=(1, 10))
    ask(limits, tokens=10)
    for _ in range(20):
        assert ask(limits, tokens=10)
    assert [ask(limits, tokens=0) is None for _ in range(5)] == [True] * 4 + [False]


def test_clients_do_not_share_what_they_have(clock):
    limits = rates(clock, requests=(1, 1))
    assert [ask(limits, name) is None for name in "abab"] == [True, True, False, False]


def opened(limits, client):
    """A stream that was let in, as the context that it holds."""
    stack = ExitStack()
    stack.enter_context(limits.admitted(client, tokens=0, streaming=True))
    return stack


def test_a_stream_holds_its_place_until_it_ends_however_it_does(clock):
    limits = rates(clock, max_streams=1)
    first = opened(limits, "a")
    with pytest.raises(TenantLimit, match="1 streams open"):
        opened(limits, "a")
    assert ask(limits, "a") is None
    opened(limits, "b").close()
    first.__exit__(RuntimeError, RuntimeError("lost"), None)
    opened(limits, "a").close()


def test_who_has_everything_back_is_forgotten_and_who_has_not_is_kept(clock):
    limits = rates(clock, requests=(1, 10), max_streams=5)
    with limits.admitted("streaming", tokens=0, streaming=True):
        for number in range(1000):
            ask(limits, f"client {number}")
        assert len(limits) == 1001
        clock.now += 10
        for _ in range(1001):
            ask(limits, "last")
        assert len(limits) == 2
    clock.now += 10
    for _ in range(5):
        ask(limits, "last")
    assert len(limits) == 1


def test_without_limits_nobody_is_remembered(clock):
    limits = rates(clock)
    for number in range(100):
        ask(limits, f"client {number}", tokens=10**9)
    assert len(limits) <= 2


@pytest.mark.parametrize(
    ("peer", "client"),
    [
        ("ipv4:192.0.2.7:5000", "192.0.2.7"),
        ("ipv6:%5B::1%5D:5000", "::/64"),
        ("ipv6:[2001:db8:1:2:3:4:5:6]:5000", "2001:db8:1:2::/64"),
        ("ipv6:%5B::ffff:192.0.2.7%5D:5000", "192.0.2.7"),
        ("ipv6:%5Bfe80::1%25eth0%5D:5000", "fe80::/64"),
        ("unix:/run/socket", "unix:/run/socket"),
        ("unix:", "unix:"),
        ("", ""),
    ],
)
def test_a_client_without_a_token_is_its_address(peer, client):
    assert client_of(peer) == client


def details(error):
    trailing = dict(error.trailing_metadata())
    found = {}
    for packed in status_pb2.Status.FromString(trailing["grpc-status-details-bin"]).details:
        kind = getattr(error_details_pb2, packed.type_url.rpartition(".")[2])
        found[kind.__name__] = kind.FromString(packed.value)
    return found, trailing


async def failed(call):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    found, trailing = details(caught.value)
    assert found["ErrorInfo"].reason == "TENANT_LIMIT"
    return found, trailing, caught.value.details()


async def test_too_many_requests_are_refused_with_the_time_to_wait(serve):
    async with serve(client_request_rate="0.01", client_request_burst="2") as running:
        for _ in range(2):
            await running.generation.Generate(pb.GenerateRequest(text="a"))
        found, trailing, message = await failed(running.models.ListModels(model_pb2.ListModelsRequest()))
        delay = found["RetryInfo"].retry_delay.ToTimedelta().total_seconds()
        assert 90 < delay <= 100
        assert int(trailing["grpc-retry-pushback-ms"]) == pytest.approx(delay * 1000, abs=1)
        assert "0.01 requests a second, 2 at once" in message


async def test_tokens_are_taken_by_bytes_and_given_back_when_they_are_counted(serve):
    async with serve(client_token_rate="0.001", client_token_burst="1000") as running:
        for _ in range(5):  # 900 bytes each, which the engine counts as 3 tokens
            await running.generation.Generate(pb.GenerateRequest(text="x" * 900))
        running.engine.go_on = asyncio.Event()
        held = running.generation.GenerateStream(pb.GenerateStreamRequest(request=pb.GenerateRequest(text="x" * 900)))
        await held.read()
        asked = embed_pb.EmbedRequest(inputs=[common_pb2.TextInput(text="x" * 200)])
        await failed(running.embedding.Embed(asked))
        await running.models.ListModels(model_pb2.ListModelsRequest())  # computes nothing, costs no tokens
        held.cancel()


@pytest.mark.parametrize("refusal", [Overloaded("full"), QueueTimeout("late"), EngineLost("gone")])
async def test_who_is_asked_to_come_again_gets_his_tokens_back(serve, refusal):
    asked = pb.GenerateRequest(text="x" * 900)
    async with serve(client_token_rate="0.001", client_token_burst="1000") as running:
        running.engine.refusal = refusal
        for _ in range(3):
            with pytest.raises(grpc.aio.AioRpcError, match=refusal.message):
                await running.generation.Generate(asked)
        running.engine.refusal = InvalidRequest("wrong")
        with pytest.raises(grpc.aio.AioRpcError, match="wrong"):
            await running.generation.Generate(asked)
        await failed(running.generation.Generate(asked))  # what cannot be right later is paid for


async def test_streams_are_counted_for_each_token_not_for_each_address(serve, tmp_path):
    made = [new_token(name) for name in ("alice", "bob")]
    file = tmp_path / "tokens"
    file.write_text("".join(f"{holder}\n" for _, holder in made))
    alice, bob = [(("authorization", f"Bearer {token}"),) for token, _ in made]
    asked = pb.GenerateStreamRequest(request=pb.GenerateRequest(text="a"))
    async with serve(client_streams="1", token_file=str(file)) as running:
        running.engine.go_on = asyncio.Event()
        first = running.generation.GenerateStream(asked, metadata=alice)
        await first.read()
        await failed(running.generation.GenerateStream(asked, metadata=alice).read())
        other = running.generation.GenerateStream(asked, metadata=bob)
        await other.read()
        running.engine.go_on.set()
        while await first.read() is not grpc.aio.EOF:
            pass
        again = running.generation.GenerateStream(asked, metadata=alice)
        assert len([message async for message in again]) == 7
        other.cancel()


def test_a_burst_without_a_rate_is_refused():
    with pytest.raises(ConfigError, match="client_token_burst needs client_token_rate"):
        load({"client_token_burst": "5"}, {}, None)
