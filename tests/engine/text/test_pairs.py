"""Two texts are put together as the tokenizer's own post-processor does it, or not at all."""

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from stretto.engine.text.pairs import pair_template
from stretto.engine.text.tokenizer import Tokenizer


def library(post_processor: object | None) -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(models.WordLevel({word: i for i, word in enumerate(["<s>", "</s>", "a", "b", "c"])}))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    if post_processor is not None:
        made.post_processor = post_processor
    return made


SPECIAL = [("<s>", 0), ("</s>", 1)]
PROCESSORS = [
    processors.BertProcessing(("</s>", 1), ("<s>", 0)),
    processors.RobertaProcessing(("</s>", 1), ("<s>", 0)),
    processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=SPECIAL),
    processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=SPECIAL),
]


@pytest.mark.parametrize("post_processor", PROCESSORS)
@pytest.mark.parametrize("pair", [("b c", "c"), ("b", ""), ("", "c b b"), ("", "")])
def test_ids_and_segments_are_those_of_the_library(post_processor: object, pair: tuple[str, str]) -> None:
    made = library(post_processor)
    template = pair_template(made)
    assert template is not None
    bodies = [made.encode(text, add_special_tokens=False).ids for text in pair]
    said = made.encode(*pair)
    assert template.joined(*bodies) == (said.ids, said.type_ids)
    assert template.num_special == len(said.ids) - sum(map(len, bodies))
    assert template.num_segments == 1 + max(made.encode("a", "a").type_ids)


def test_minilms_pairs_are_those_of_its_library(minilm_tokenizer: Tokenizer) -> None:
    pair = ("How do I reset it?", "Press the button.")
    bodies = minilm_tokenizer.encode(pair, add_special_tokens=False)
    said = minilm_tokenizer._library.encode(*pair)
    assert minilm_tokenizer.pair is not None
    assert minilm_tokenizer.pair.joined(*bodies) == (said.ids, said.type_ids)
    assert minilm_tokenizer.pair.num_segments == 2


@pytest.mark.parametrize(
    "post_processor", [None, processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B:1", special_tokens=SPECIAL)]
)
def test_two_texts_that_nothing_tells_apart_are_no_pair(post_processor: object | None) -> None:
    assert pair_template(library(post_processor)) is None
