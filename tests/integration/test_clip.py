"""CLIPScore is the raw cosine of transformers' own `CLIPModel`, in float32, on PIL's preprocessing."""

import torch
from transformers import CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from b2diffurl import emoji
from b2diffurl.images import to_pil
from b2diffurl.rewards.clip import CLIPScore

PROMPTS = ["a bear riding a bike", "a cat playing chess", "a bear riding a bike"]


def test_score_is_the_raw_cosine() -> None:
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model = CLIPModel.from_pretrained(emoji.clip_dir(), dtype=torch.float32).eval()
    pixels = CLIPImageProcessorPil.from_pretrained(emoji.clip_dir())([to_pil(x) for x in images], return_tensors="pt")
    tokens = CLIPTokenizer.from_pretrained(emoji.clip_dir())(PROMPTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        out = model(**pixels, **tokens)
    expected = (out.image_embeds * out.text_embeds).sum(-1)
    torch.testing.assert_close(CLIPScore("emoji")(images, PROMPTS), expected, atol=1e-6, rtol=0)


def test_score_of_an_image_does_not_depend_on_its_batch() -> None:
    images = torch.rand(70, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    clip, prompts = CLIPScore("emoji"), (PROMPTS * 24)[:70]
    whole = clip(images, prompts)
    single = torch.cat([clip(images[i : i + 1], prompts[i : i + 1]) for i in (0, 33, 69)])
    torch.testing.assert_close(whole[[0, 33, 69]], single, atol=1e-6, rtol=0)
    assert whole.dtype == torch.float32
