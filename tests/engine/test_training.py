"""The models that serve also train: step for step, their losses on real text are those of transformers."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from stretto.engine.attention import Causal, Packed
from stretto.engine.checkpoint.headers import open_checkpoint
from stretto.engine.models.loading import build
from stretto.engine.models.parts import Rows
from stretto.engine.rotary import Rotary

CPU = torch.device("cpu")
STEPS, ROWS, TIME = 60, 8, 48
RATE = 1e-3  # at 3e-3 some seeds are chaotic: transformers leaves its own float64 by 3e-3 there, and 4e-7 here
MASK = 1  # a byte that no text holds
SIZES = {
    "vocab_size": 256,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}


@pytest.fixture(scope="module")
def text() -> Tensor:
    """English, as bytes: the licence of this project."""
    return torch.frombuffer(bytearray((Path(__file__).parents[2] / "LICENSE").read_bytes()), dtype=torch.uint8).long()


def batches(text: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Pieces of the text, and which of their bytes a masked model is to guess."""
    chance = torch.Generator().manual_seed(2)
    for _ in range(STEPS):
        starts = torch.randint(0, len(text) - TIME, (ROWS,), generator=chance)
        ids = torch.stack([text[start : start + TIME] for start in starts])
        yield ids, torch.rand(ids.shape, generator=chance) < 0.2


def next_byte(logits: Tensor, ids: Tensor) -> Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def masked_byte(hidden: Tensor, table: Tensor, ids: Tensor, hidden_places: Tensor) -> Tensor:
    """The masked bytes, guessed by the likeness of their hidden states to the rows of the embedding."""
    return F.cross_entropy(hidden.reshape(ids.numel(), -1)[hidden_places.flatten()] @ table.T, ids[hidden_places])


def losses(model: Any, text: Tensor, loss_of: Callable[[Any, Tensor, Tensor], Tensor]) -> list[float]:
    model.train().requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    said = []
    for ids, hidden_places in batches(text):
        loss = loss_of(model, ids, hidden_places)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        said.append(loss.item())
    return said


def both(theirs: PreTrainedModel, folder: Path) -> Any:
    theirs.save_pretrained(folder)
    return build(open_checkpoint(folder), dtype=torch.float32, device=CPU)


@pytest.mark.parametrize("tied", [True, False])
def test_a_llama_learns_as_that_of_transformers_does(tied: bool, text: Tensor, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=2, tie_word_embeddings=tied))
    ours = both(theirs, tmp_path)

    def our_loss(model: Any, ids: Tensor, _: Tensor) -> Tensor:
        return next_byte(model.logits(model(Rows(ids=ids, positions=torch.arange(TIME)), Causal())), ids)

    wanted = losses(theirs, text, lambda model, ids, _: next_byte(model(ids).logits, ids))
    assert wanted[-1] < 0.7 * wanted[0], "nothing was learned, so nothing was compared"
    assert losses(ours, text, our_loss) == pytest.approx(wanted, rel=1e-4)


def test_a_bert_learns_as_that_of_transformers_does(text: Tensor, tmp_path: Path) -> None:
    torch.manual_seed(0)
    without_chance: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    theirs = BertModel(BertConfig(**SIZES, **without_chance), add_pooling_layer=False)
    ours = both(theirs, tmp_path)

    def their_loss(model: Any, ids: Tensor, places: Tensor) -> Tensor:
        hidden = model(ids.masked_fill(places, MASK)).last_hidden_state
        return masked_byte(hidden, model.embeddings.word_embeddings.weight, ids, places)

    def our_loss(model: Any, ids: Tensor, places: Tensor) -> Tensor:
        attend = Packed([TIME] * ROWS, CPU, Rotary())
        hidden = model(Rows(ids=ids.masked_fill(places, MASK).flatten(), positions=attend.positions), attend)
        return masked_byte(hidden, model.embed.token.weight, ids, places)

    wanted = losses(theirs, text, their_loss)
    assert wanted[-1] < 0.9 * wanted[0], "nothing was learned, so nothing was compared"
    assert losses(ours, text, our_loss) == pytest.approx(wanted, rel=1e-4)
