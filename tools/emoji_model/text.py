"""The tokenizer: a small byte-level BPE as in CLIP; every word of a world is one token."""

# diffusers annotates configs as dicts, outputs as tuples, and tuples of any length as tuples of one.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false

import json

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from b2diffurl.emoji.world import World

MAX_TOKENS = 16
_START, _END = "<|startoftext|>", "<|endoftext|>"


def new_tokenizer(world: World) -> CLIPTokenizer:
    """Learn merges on the prompts of the world until every word is one token; other text is split into letters."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix=""))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=4096, min_frequency=1, end_of_word_suffix="</w>", show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    bpe.train_from_iterator(list(world.contents), trainer)
    learned = bpe.get_vocab()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = alphabet + [f"{letter}</w>" for letter in alphabet]
    tokens += [*sorted(set(learned) - set(tokens), key=learned.__getitem__), _START, _END]
    merges = _merges(bpe)
    tokenizer = CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)}, merges=merges, model_max_length=MAX_TOKENS
    )
    vocabulary = {word for prompt in world.contents for word in prompt.split()}
    assert all(len(tokenizer(word).input_ids) == 3 for word in vocabulary), "a word of the world is more than one token"
    return tokenizer


def _merges(bpe: Tokenizer) -> list[tuple[str, str]]:
    return [tuple(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]
