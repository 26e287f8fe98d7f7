"""Small models of the BERT reward with random weights: a DeBERTa and a LLaVA."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import ByteLevelBPETokenizer, Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPVisionConfig,
    DebertaConfig,
    DebertaModel,
    DebertaTokenizer,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from b2diffurl.rewards.bert.settings import BertSettings

SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
TEXTS = ["The image contains a cat riding a bike", "a dog playing chess", "a bear washing dishes"]
WORDS = "a the cat dog bear bike chess is on rides plays sees with red blue big"
CHAT_TEMPLATE = (
    "{% for message in messages %}USER: "
    "{% for part in message['content'] if part['type'] == 'image' %}<image> {% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }} {% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def make_deberta(folder: Path, *, max_length: int) -> Path:
    """Save a small random DeBERTa with the architecture of deberta-xlarge-mnli, and a byte-level BPE tokenizer."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(TEXTS, vocab_size=300, special_tokens=SPECIAL, show_progress=False)
    learned = json.loads(bpe.to_str())["model"]
    merges: Any = [tuple(merge) for merge in learned["merges"]]
    tokenizer = DebertaTokenizer(vocab=learned["vocab"], merges=merges, model_max_length=max_length)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = DebertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=64,
        initializer_range=0.3,
        relative_attention=True,
        pos_att_type="c2p|p2c",
        position_biased_input=False,
        type_vocab_size=0,
    )
    DebertaModel(config).save_pretrained(folder)
    return folder


def make_llava(folder: Path, *, chat_template: str | None = CHAT_TEMPLATE, words: str = WORDS) -> Path:
    """Save a small random LLaVA whose captions are a few words that depend on the image."""
    known = dict.fromkeys(f"<pad> <s> </s> <unk> <image> USER: ASSISTANT: {BertSettings().question} {words}".split())
    vocabulary = {word: index for index, word in enumerate(known)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            pad_token="<pad>",
            bos_token="<s>",
            eos_token="</s>",
            unk_token="<unk>",
            additional_special_tokens=["<image>"],
        ),
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_template,
    ).save_pretrained(folder)
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
        initializer_range=1.0,
    )
    text = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.5,
    )
    torch.manual_seed(0)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=4, vision_feature_layer=-1)
    model = LlavaForConditionalGeneration(config)
    ends = ("</s>", "bike", "chess", "big")  # several, so that captions differ in length
    model.generation_config.eos_token_id = [vocabulary[word] for word in ends]
    model.generation_config.pad_token_id = 0
    model.save_pretrained(folder)
    return folder
