"""Who sees whom in the cacheless ways of attending, compared with a plain softmax and with each text alone."""

import pytest
import torch
from torch import Tensor

from stretto.engine.attention import Causal, Packed, Spec, Watched
from stretto.engine.families.rope import Rope
from stretto.engine.rotary import Rotary

CPU = torch.device("cpu")
HEADS, KEY_HEADS, SIZE = 4, 2, 8
ROPE = Rope(size=SIZE, inverse_frequencies=(1.0, 0.3, 0.1, 0.03))
SPECS = [
    Spec(heads=HEADS, key_heads=KEY_HEADS, head_size=SIZE, scale=0.4, causal=causal, rope=rope)
    for causal in (True, False)
    for rope in (ROPE, None)
]
LENGTHS = [5, 5, 1, 9, 5, 1]


def qkv(count: int) -> tuple[Tensor, Tensor, Tensor]:
    chance = torch.Generator().manual_seed(count)
    q, k, v = (torch.randn(count, heads, SIZE, generator=chance) for heads in (HEADS, KEY_HEADS, KEY_HEADS))
    return q, k, v


def rotated(x_THD: Tensor, rope: Rope) -> Tensor:
    """Each pair of a head's halves as one complex number, turned by its position."""
    pairs = torch.complex(*x_THD.double().chunk(2, -1))
    angles = torch.arange(len(x_THD))[:, None] * torch.tensor(rope.inverse_frequencies, dtype=torch.float64)
    turned = pairs * torch.polar(torch.ones_like(angles), angles)[:, None]
    return torch.cat((turned.real, turned.imag), -1)


def plainly(q: Tensor, k: Tensor, v: Tensor, spec: Spec) -> tuple[Tensor, Tensor]:
    """One text, token by token and head by head: the output and the weights."""
    if spec.rope is not None:
        q, k = rotated(q, spec.rope), rotated(k, spec.rope)
    out, weights = torch.zeros(len(q), HEADS, SIZE), torch.zeros(HEADS, len(q), len(q))
    for head in range(HEADS):
        for row in range(len(q)):
            stop = row + 1 if spec.causal else len(q)
            shared = head // (HEADS // KEY_HEADS)
            scores = (k[:stop, shared].double() @ q[row, head].double()) * spec.scale
            weights[head, row, :stop] = scores.softmax(-1)
            out[row, head] = weights[head, row, :stop] @ v[:stop, shared]
    return out.flatten(1), weights


@pytest.mark.parametrize("spec", SPECS)
def test_packed_texts_see_themselves_only(spec: Spec) -> None:
    q, k, v = qkv(sum(LENGTHS))
    out = Packed(LENGTHS, CPU, Rotary())(0, q, k, v, spec)
    texts = zip(torch.split(q, LENGTHS), torch.split(k, LENGTHS), torch.split(v, LENGTHS), strict=True)
    wanted = torch.cat([plainly(*text, spec)[0] for text in texts])
    torch.testing.assert_close(out, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec.causal])
def test_causal_rows_see_themselves_and_what_came_before(spec: Spec) -> None:
    q, k, v = qkv(11)
    batched = Causal()(0, q[None], k[None], v[None], spec)[0]
    torch.testing.assert_close(batched, plainly(q, k, v, spec)[0], atol=1e-5, rtol=0)


def test_a_text_has_the_same_answer_alone_and_in_company() -> None:
    q, k, v = qkv(sum(LENGTHS))
    together = Packed(LENGTHS, CPU, Rotary())(0, q, k, v, SPECS[0])
    alone = Packed([9], CPU, Rotary())(0, q[11:20], k[11:20], v[11:20], SPECS[0])
    torch.testing.assert_close(together[11:20], alone, atol=1e-5, rtol=0)


def test_a_text_that_is_no_number_leaves_its_neighbours_alone() -> None:
    q, k, v = qkv(sum(LENGTHS))
    clean = Packed(LENGTHS, CPU, Rotary())(0, q, k, v, SPECS[2])
    for x in (q, k, v):
        x[5:10] = torch.nan  # the second of the three that share a call
    broken = Packed(LENGTHS, CPU, Rotary())(0, q, k, v, SPECS[2])
    assert broken[5:10].isnan().all()
    assert torch.equal(torch.cat((broken[:5], broken[10:])), torch.cat((clean[:5], clean[10:])))


@pytest.mark.parametrize("spec", SPECS)
def test_watching_changes_nothing_and_keeps_the_weights_of_packed_texts(spec: Spec) -> None:
    q, k, v = qkv(8)
    inner = Packed([3, 5], CPU, Rotary())
    watched = Watched(inner)
    assert torch.equal(watched(7, q, k, v, spec), inner(7, q, k, v, spec))
    first, second = plainly(q[:3], k[:3], v[:3], spec)[1], plainly(q[3:], k[3:], v[3:], spec)[1]
    wanted = torch.zeros(HEADS, 8, 8)
    wanted[:, :3, :3], wanted[:, 3:, 3:] = first, second
    torch.testing.assert_close(watched.weights[7], wanted, atol=1e-5, rtol=0)


def test_watching_keeps_the_weights_of_causal_rows() -> None:
    q, k, v = qkv(6)
    watched = Watched(Causal())
    watched(0, q, k, v, SPECS[0])
    torch.testing.assert_close(watched.weights[0], plainly(q, k, v, SPECS[0])[1], atol=1e-5, rtol=0)


def test_a_rope_table_grows_and_keeps_its_beginning() -> None:
    rotary = Rotary()
    short, long = rotary.tables(ROPE, 3, CPU), rotary.tables(ROPE, 1000, CPU)
    assert len(long[0]) >= 1000
    assert torch.equal(short[0], long[0][: len(short[0])])


def test_tables_first_made_in_inference_mode_serve_training() -> None:
    q, k, v = qkv(6)
    causal = Causal()
    with torch.inference_mode():
        causal(0, q, k, v, SPECS[0])
    (gradient,) = torch.autograd.grad(causal(0, q.requires_grad_(), k, v, SPECS[0]).sum(), q)
    assert gradient.isfinite().all()
