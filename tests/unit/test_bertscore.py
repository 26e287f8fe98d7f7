"""BERTScore equals the slow reference implementation for each pair, on a small DeBERTa with a real tokenizer."""

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel, DebertaModel, DebertaTokenizer, PreTrainedTokenizerBase

from b2diffurl.errors import UserError
from b2diffurl.rewards.bert.bertscore import BERTScore, TextMatch
from tests.reference.bertscore import Token, bertscore
from tests.tiny_bert import make_deberta

NUM_LAYERS = 3
MAX_LENGTH = 24
CANDIDATES = [
    "a cat riding a bike",
    "",
    "dog",
    "a very big red dog is playing chess with a small blue bear and a zebra near the window of the house",
    "a cat riding a bike",
    "  a dog playing chess\n",
    "a bear",
    " \n",
    "two [SEP] dogs",
]
REFERENCES = [
    "The image contains a cat riding a bike",
    "The image contains a dog",
    "The image contains a dog playing chess",
    "The image contains a bear washing dishes",
    "a cat riding a bike",
    "a dog playing chess",
    "",
    "",
    "The image contains a dog",
]


@pytest.fixture(scope="module")
def deberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_deberta(tmp_path_factory.mktemp("deberta"), max_length=MAX_LENGTH)


def embed_single(model: DebertaModel, tokenizer: PreTrainedTokenizerBase, text: str) -> list[Token]:
    """Embed the tokens of one text with the whole model, without a batch, at the output of the NUM_LAYERS-th layer."""
    inputs = tokenizer(text.strip(), truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
    with torch.no_grad():
        states = model(**inputs, output_hidden_states=True).hidden_states[NUM_LAYERS][0].double().tolist()
    special = (tokenizer.cls_token_id, tokenizer.sep_token_id)
    return [(state, token in special) for state, token in zip(states, inputs["input_ids"][0].tolist(), strict=True)]


def by_reference(folder: Path, candidates: list[str], references: list[str]) -> torch.Tensor:
    """Compute precision, recall and F1 of each pair, B x 3."""
    model = DebertaModel.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = DebertaTokenizer.from_pretrained(folder)
    pairs = zip(candidates, references, strict=True)
    return torch.tensor(
        [
            bertscore(embed_single(model, tokenizer, candidate), embed_single(model, tokenizer, reference))
            for candidate, reference in pairs
        ]
    )


def table(match: TextMatch) -> torch.Tensor:
    return torch.stack([match.precision, match.recall, match.f1], dim=1)


def test_batch_equals_the_reference_for_each_pair(deberta: Path) -> None:
    expected = by_reference(deberta, CANDIDATES, REFERENCES)
    scores = table(BERTScore(str(deberta), num_layers=NUM_LAYERS)(CANDIDATES, REFERENCES))
    torch.testing.assert_close(scores, expected, atol=1e-6, rtol=0)
    different = expected[[0, 3, 8]]
    assert float((different[:, 0] - different[:, 1]).abs().min()) > 1e-4


def test_an_empty_text_scores_0_and_equal_texts_1(deberta: Path) -> None:
    scores = table(BERTScore(str(deberta), num_layers=NUM_LAYERS)(CANDIDATES, REFERENCES))
    assert scores[[1, 6, 7]].tolist() == [[0, 0, 0]] * 3
    torch.testing.assert_close(scores[[4, 5]], torch.ones(2, 3), atol=1e-6, rtol=0)


def test_neither_padding_nor_chunks_nor_order_change_a_score(deberta: Path) -> None:
    score = BERTScore(str(deberta), num_layers=NUM_LAYERS)
    ends = [f"{'very ' * (index % 7)}big dog {index}" for index in range(70)]
    candidates = [f"a cat and a {end}" for end in ends]
    whole = table(score(candidates, ends))
    single = torch.cat([table(score([candidates[index]], [ends[index]])) for index in (0, 1, 36, 69)])
    torch.testing.assert_close(whole[[0, 1, 36, 69]], single, atol=1e-6, rtol=0)
    torch.testing.assert_close(table(score(candidates[::-1], ends[::-1])), whole.flip(0), atol=1e-6, rtol=0)


def test_long_texts_are_truncated_at_the_tokenizers_length(deberta: Path) -> None:
    score = BERTScore(str(deberta), num_layers=NUM_LAYERS)
    long = "dog " * 100
    assert table(score([long], ["a dog"])).equal(table(score([long + "bear"], ["a dog"])))


def test_long_texts_are_truncated_at_512_where_the_tokenizer_has_no_length(tmp_path: Path) -> None:
    score = BERTScore(str(make_deberta(tmp_path, max_length=10**30)), num_layers=1)
    start = "~" * 510
    assert table(score([start + "!"], ["a dog"])).equal(table(score([start], ["a dog"])))
    assert not table(score([start[:-1] + "!"], ["a dog"])).equal(table(score([start], ["a dog"])))


def test_later_layers_are_removed(deberta: Path) -> None:
    assert len(BERTScore(str(deberta), num_layers=2).encoder.encoder.layer) == 2


@pytest.mark.parametrize("num_layers", [0, 5])
def test_a_missing_layer_is_rejected(deberta: Path, num_layers: int) -> None:
    with pytest.raises(UserError, match=rf"num_layers is {num_layers} but .* has 4 layers"):
        BERTScore(str(deberta), num_layers=num_layers)


def test_an_encoder_other_than_deberta_is_rejected(deberta: Path, tmp_path: Path) -> None:
    config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=300)
    BertModel(config).save_pretrained(tmp_path)
    DebertaTokenizer.from_pretrained(deberta).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="is a BertModel"):
        BERTScore(str(tmp_path), num_layers=1)


def test_a_directory_without_a_model_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="could not be loaded"):
        BERTScore(str(tmp_path))
