"""Rewards by name: the grammar, invalid names, and the scores of the loaded rewards."""

import asyncio
import io
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from b2diffurl import emoji
from b2diffurl.errors import UserError
from b2diffurl.images import to_pil
from b2diffurl.rewards import (
    InvalidScoresError,
    RewardSettings,
    WeightedSum,
    check_reward,
    check_watched,
    load_reward,
    load_watched,
    parse_reward,
    score_images,
)
from b2diffurl.rewards.bert.reward import BertReward, BertSettings
from b2diffurl.rewards.builtin import BUILTIN_MODULES, CUSTOM, RewardKind, reward_forms, reward_kind
from b2diffurl.rewards.clip import VIT_H_14, CLIPScore
from b2diffurl.rewards.jpeg_size import JPEGSize
from b2diffurl.rewards.pickscore import PickScore
from b2diffurl.rewards.remote.client import RemoteReward, RemoteSettings
from tests.tiny_bert import make_deberta

PROMPTS = ["a bear riding a bike", "a cat playing chess", "a dog washing dishes"]


def noise(num: int = 3, *, size: int = 32) -> Tensor:
    return torch.rand(num, 3, size, size, generator=torch.Generator().manual_seed(0))


def scores_of(name: str) -> list[float]:
    return score_images(load_reward(name), noise(), PROMPTS).scores.tolist()


@pytest.fixture
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(file: Path, text: str) -> None:
    file.write_text("import asyncio\nimport numpy as np\nimport torch\n\n" + text, encoding="utf-8")


# The grammar


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("clip", [(1, "clip")]),
        ("  clip:emoji ", [(1, "clip:emoji")]),
        (f"clip:{VIT_H_14}", [(1, f"clip:{VIT_H_14}")]),
        ("clip + 0.5*jpeg-size:compressible", [(1, "clip"), (0.5, "jpeg-size:compressible")]),
        ("0.7*clip:emoji + 0.3*my_module:f", [(0.7, "clip:emoji"), (0.3, "my_module:f")]),
        ("clip - 0.1*x:f - y.z:g", [(1, "clip"), (-0.1, "x:f"), (-1, "y.z:g")]),
        ("clip:a-b/c-d.e - pickscore:a/b+c", [(1, "clip:a-b/c-d.e"), (-1, "pickscore:a/b+c")]),
        ("- clip", [(-1, "clip")]),
        ("-clip", [(-1, "clip")]),
        ("-2 * clip + 1e-3*pickscore", [(-2, "clip"), (1e-3, "pickscore")]),
        ("clip - -.5*x:f", [(1, "clip"), (0.5, "x:f")]),
        ("bert + 2.*remote:http://10.0.0.1:80/a-b", [(1, "bert"), (2, "remote:http://10.0.0.1:80/a-b")]),
        ("vlm:Is it red? Yes - no. + hpsv2@v1.0", [(1, "vlm:Is it red? Yes"), (-1, "no."), (1, "hpsv2@v1.0")]),
        ("../my rewards/a-b.py:f  +  clip.py:g", [(1, "../my rewards/a-b.py:f"), (1, "clip.py:g")]),
    ],
)
def test_a_name_is_split_into_terms_and_weights(text: str, expected: list[tuple[float, str]]) -> None:
    assert [(term.weight, term.name) for term in parse_reward(text)] == expected


INVALID = {
    "beauty": "reward is 'beauty'; give 'clip:emoji', ",
    "": "a term is missing; ",
    "clip +": "a term is missing; ",
    "0.5*": "a term is missing; ",
    "0*clip": "'clip' has weight 0; remove it",
    "clip - 0.0*bert": "'bert' has weight 0; remove it",
    "1e999*clip": "the weight 1e999 is too large; give ",
    "clip + 2*clip": "contains 'clip' more than once; write it once",
    "clip*2": "reward is 'clip*2'; write a weight before its term",
    "clip:emoji +0.5*bert": "write a weight before its term",
    "inf*clip": "write a weight before its term",
    "2 clip": "reward is '2 clip' (did you mean 'clip'?); give ",
    "clip:": "reward is 'clip:', whose model is missing; give ",
    "pickscore:": "reward is 'pickscore:', whose model is missing; give ",
    "clip:emoji+bert": "whose model is not a directory; give ",
    "clip:./nowhere": "whose model is not a directory; give ",
    "clip:too/many/parts": "whose model is not a directory; give ",
    "jpeg-size": "give 'jpeg-size:compressible' or 'jpeg-size:incompressible'.",
    "jpeg-size:small": "give 'jpeg-size:compressible' or 'jpeg-size:incompressible'.",
    "bert:deberta": "reward is 'bert:deberta'; give 'bert'",
    "aesthetic:x": "give 'aesthetic' or 'aesthetic@REVISION', and its other settings in the table [aesthetic].",
    "hpsv2": "need a revision: this package has verified none; give hpsv2.revision, ",
    "hpsv2@": "give 'hpsv2' or 'hpsv2@REVISION', ",
    "clip@main": "reward is 'clip@main'; give ",
    "vlm:": "reward is 'vlm:', whose question is missing; give ",
    "vlm:Is it red?": "but vlm.base_url is empty; give http://127.0.0.1:8000/v1.",
    "ocr:en": "give 'ocr', and its engine in the settings [ocr].",
    "remote:": "which has no address; give ",
    "remote:localhost:80": "which has no address; give ",
    "remote:http://host:99999": "is not a valid address (Port out of range 0-65535); give ",
    "my_reward.py": "add the function in that file: 'my_reward.py:FUNCTION'.",
    "my_reward.py:": "give ",
    "nowhere.py:f": "there is no file nowhere.py; give an absolute path or one relative to ",
    "nowhere.at_all:f": "there is no module 'nowhere'; is it on the Python path? If not, give FILE.py:FUNCTION.",
    ".relative:f": "which has no valid module; give ",
    "math:nope": "module math has no function 'nope'.",
    "math:pi": "module math has no function 'pi'.",
    "math:sqrt": "which cannot be called with images and prompts ",
}


@pytest.mark.parametrize("text", INVALID)
@pytest.mark.usefixtures("cwd")
def test_an_invalid_name_is_rejected_in_one_sentence(text: str) -> None:
    with pytest.raises(UserError) as error:
        check_reward(text)
    message = str(error.value)
    assert INVALID[text] in message
    assert message.endswith(".")
    assert "\n" not in message


@pytest.mark.parametrize("text", ["remote:http://me:secret@host", "clip + 0*remote:https://secret@host:80"])
def test_a_password_is_not_repeated(text: str) -> None:
    with pytest.raises(UserError, match="in the environment") as error:
        check_reward(text)
    assert "secret" not in str(error.value)


def test_a_directory_without_a_model_is_rejected(cwd: Path) -> None:
    (cwd / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty has no config\.json; give "):
        check_reward("clip:empty")


def test_checking_loads_no_model() -> None:
    names = ["clip", "pickscore", "bert", "remote:http://127.0.0.1:1", "jpeg-size:compressible"]
    names += ["aesthetic", "aesthetic@main", "hpsv2@main"]
    code = f"from b2diffurl.rewards import check_reward; import sys; [check_reward(x) for x in {names}]\n"
    code += "print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# Built-in rewards


def test_one_term_without_a_weight_is_the_reward_itself() -> None:
    assert isinstance(load_reward("clip:emoji"), CLIPScore)
    assert isinstance(load_reward(f"1*clip:{emoji.clip_dir()}"), CLIPScore)
    assert load_reward("jpeg-size:incompressible") == JPEGSize(aim="incompressible")
    assert isinstance(load_reward("-jpeg-size:incompressible"), WeightedSum)


def test_a_sum_is_the_sum_of_its_terms() -> None:
    images = noise()
    reward = load_reward("0.5*clip:emoji - 0.25*jpeg-size:incompressible")
    clip, size = CLIPScore("emoji")(images, PROMPTS).double(), JPEGSize(aim="incompressible")(images, PROMPTS)
    scored = score_images(reward, images, PROMPTS)
    assert list(scored.terms) == ["clip:emoji", "jpeg-size:incompressible"]
    assert torch.equal(scored.terms["clip:emoji"], clip)
    assert torch.equal(scored.terms["jpeg-size:incompressible"], size)
    torch.testing.assert_close(scored.scores, 0.5 * clip - 0.25 * size, atol=1e-12, rtol=0)
    assert torch.equal(reward(images, PROMPTS)[0], scored.scores)


def test_a_single_reward_has_no_terms() -> None:
    scored = score_images(JPEGSize(aim="compressible"), noise(), PROMPTS)
    assert torch.equal(scored.scores, JPEGSize(aim="compressible")(noise(), PROMPTS))
    assert scored.terms == {}
    assert scored.info == {}


def test_jpeg_size_is_that_of_ddpo() -> None:
    images = noise(4, size=24) * 1.2 - 0.1  # DDPO clamps too
    expected: list[float] = []
    for image in images:
        pixels = (image * 255).round().clamp(0, 255).to(torch.uint8).numpy().transpose(1, 2, 0)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="JPEG", quality=95)
        expected.append(len(buffer.getvalue()) / 1000)
    assert score_images(load_reward("jpeg-size:incompressible"), images, ["a"] * 4).scores.tolist() == expected
    negative = [-size for size in expected]
    assert score_images(load_reward("jpeg-size:compressible"), images, ["a"] * 4).scores.tolist() == negative


def tiny_preference_model(folder: Path) -> Path:
    """A random `CLIPModel` with the embedded model's processor; its texts are 16 tokens of a vocabulary of 674."""
    torch.manual_seed(0)
    shared: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    tokens: dict[str, Any] = {"bos_token_id": 672, "eos_token_id": 673, "pad_token_id": 673}
    text = CLIPTextConfig(**shared, **tokens, num_attention_heads=2, vocab_size=674, max_position_embeddings=16)
    vision = CLIPVisionConfig(**shared, num_attention_heads=2, image_size=32, patch_size=8)
    config = CLIPConfig(
        text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=8, logit_scale_init_value=3.0
    )
    CLIPModel(config).save_pretrained(folder)
    for name in ("preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(emoji.clip_dir() / name, folder / name)
    return folder


def test_pickscore_is_the_cosine_times_the_logit_scale(tmp_path: Path) -> None:
    """As in its model card: unit vectors of transformers' own projections, times exp(logit_scale)."""
    folder, images = tiny_preference_model(tmp_path), noise()
    model = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
    pixels = CLIPImageProcessorPil.from_pretrained(folder)([to_pil(x) for x in images], return_tensors="pt")
    tokens = CLIPTokenizer.from_pretrained(folder)(PROMPTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**pixels, **tokens).logits_per_image.diagonal()
        cosines = CLIPScore(str(folder))(images, PROMPTS)
    scores = PickScore(str(folder))(images, PROMPTS)
    assert torch.equal(score_images(load_reward(f"pickscore:{folder}"), images, PROMPTS).scores, scores.double())
    torch.testing.assert_close(scores, logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(scores, cosines * math.exp(3.0), atol=1e-5, rtol=0)


def test_pickscore_is_not_a_clipscore(tmp_path: Path) -> None:
    """The evaluation uses a reward that is a CLIPScore as its judge."""
    loaded = load_reward(f"pickscore:{tiny_preference_model(tmp_path)}")
    assert isinstance(loaded, PickScore)
    assert not isinstance(loaded, CLIPScore)


@pytest.mark.parametrize(("missing", "cause"), [("tokenizer*", "has no tokenizer; "), ("model*", "")])
def test_an_incomplete_model_is_rejected(tmp_path: Path, missing: str, cause: str) -> None:
    """Without its files transformers would create a tokenizer without words."""
    tiny_preference_model(tmp_path)
    for file in tmp_path.glob(missing):
        file.unlink()
    for name in ("clip", "pickscore"):
        with pytest.raises(UserError, match=f"^reward {name}:{tmp_path} could not be loaded: .*{cause}"):
            load_reward(f"{name}:{tmp_path}")


# Rewards in other processes


class Server(BaseHTTPRequestHandler):
    """A reward server that scores each image by the length of its prompt."""

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""

    def do_GET(self) -> None:
        self.answer({"status": "ok", "reward": "length"})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.answer({"rewards": [float(len(prompt)) for prompt in request["prompts"]], "info": {}})

    def answer(self, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as http:
        thread = Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def test_a_remote_reward_is_a_term_like_any_other(server: str) -> None:
    settings = RemoteSettings(batch_size=2)
    reward = load_reward(f"remote:{server}", RewardSettings(remote=settings))
    assert isinstance(reward, RemoteReward)
    assert reward.settings == settings
    scored = score_images(load_reward(f"0.5*remote:{server} + jpeg-size:compressible"), noise(), PROMPTS)
    lengths = torch.tensor([len(prompt) for prompt in PROMPTS], dtype=torch.float64)
    assert torch.equal(scored.terms[f"remote:{server}"], lengths)
    assert torch.equal(scored.scores, 0.5 * lengths + scored.terms["jpeg-size:compressible"])


def test_a_missing_server_is_reported_when_its_reward_is_loaded() -> None:
    check_reward("remote:http://127.0.0.1:1")
    with pytest.raises(UserError, match=r"no reward server answers at http://127\.0\.0\.1:1 "):
        load_reward("remote:http://127.0.0.1:1")


def test_settings_reach_the_bert_reward(tmp_path: Path) -> None:
    encoder = str(make_deberta(tmp_path, max_length=64))
    settings = BertSettings(captioner="any", base_url="http://127.0.0.1:1/v1", encoder=encoder, num_layers=2)
    reward = load_reward("bert", RewardSettings(bert=settings))
    assert isinstance(reward, BertReward)
    assert reward.settings == settings
    assert isinstance(load_watched(["bert"], RewardSettings(bert=settings))["bert"], BertReward)


# Custom rewards

OWN = {
    "tensor": "def f(images, prompts): return images.mean(dim=(1, 2, 3))",
    "list": "def f(images, prompts): return [float(image.mean()) for image in images]",
    "list_of_tensors": "def f(images, prompts): return [image.mean() for image in images]",
    "array": "def f(images, prompts): return images.numpy().mean(axis=(1, 2, 3))",
    "reversed_array": "def f(images, prompts): return images.flip(0).numpy().mean(axis=(1, 2, 3))[::-1]",
    "with_gradient": """w = torch.ones((), requires_grad=True)
def f(images, prompts): return w * images.mean(dim=(1, 2, 3))""",
    "metadata": """def f(images, prompts, metadata):
    assert list(metadata) == [{}] * len(prompts)
    return images.mean(dim=(1, 2, 3))""",
    "asynchronous": """async def f(images, prompts):
    async def one(index):
        await asyncio.sleep(0.01 * (len(images) - index))  # the last finishes first
        return float(images[index].mean())
    return await asyncio.gather(*map(one, range(len(images))))""",
    "class": """class f:
    def __init__(self): self.weight = torch.ones(())
    def __call__(self, images, prompts): return self.weight * images.mean(dim=(1, 2, 3))""",
    "class_with_device": """class f:
    def __init__(self, scale=1, *, device): self.weight = torch.full((), scale, device=device)
    async def __call__(self, images, prompts, metadata): return self.weight * images.mean(dim=(1, 2, 3))""",
    "instance": """class F:
    def __call__(self, images, prompts): return images.mean(dim=(1, 2, 3))
f = F()""",
}


@pytest.mark.parametrize("kind", OWN)
def test_a_custom_reward_may_have_many_forms(cwd: Path, kind: str) -> None:
    (cwd / "sub").mkdir()
    write(cwd / "sub" / "own.py", OWN[kind])
    check_reward("sub/own.py:f")
    scores = score_images(load_reward("sub/own.py:f"), noise(), PROMPTS).scores
    assert not scores.requires_grad
    assert scores.dtype == torch.float64
    torch.testing.assert_close(scores, noise().mean(dim=(1, 2, 3)).double(), atol=1e-6, rtol=0)


def test_python_numbers_keep_their_precision(cwd: Path) -> None:
    write(cwd / "own.py", "def f(images, prompts): return [1e8, 1e8 + 1, 0]\ndef g(images, prompts): return [0, 1, 1]")
    assert scores_of("own.py:f") == [1e8, 1e8 + 1, 0]
    integers = load_reward("own.py:g")(noise(), PROMPTS)
    assert isinstance(integers, Tensor)
    assert integers.dtype == torch.int64


def test_a_file_is_read_once_and_may_import_its_neighbours(cwd: Path) -> None:
    write(cwd / "neighbour_of_own.py", "loads = []")
    text = "import neighbour_of_own\nneighbour_of_own.loads.append(1)\n"
    text += "def f(images, prompts): return torch.full((len(images),), float(len(neighbour_of_own.loads)))\ng = f"
    write(cwd / "own.py", text)
    before = list(sys.path)
    check_reward("own.py:f")
    assert scores_of(f"own.py:f - {cwd}/own.py:g") == [0, 0, 0]
    assert scores_of("own.py:g") == [1, 1, 1]
    assert sys.path == before


def test_a_file_may_have_the_name_of_a_module(cwd: Path) -> None:
    write(cwd / "math.py", "def f(images, prompts): return [1, 2, 3]")
    assert scores_of("math.py:f") == [1, 2, 3]
    assert math.sqrt(4) == 2


def test_a_class_is_instantiated_once_and_only_when_it_is_loaded(cwd: Path) -> None:
    text = "made = []\nclass F:\n    def __init__(self, *, device): made.append(device)\n"
    text += "    def __call__(self, images, prompts): return [len(made)] * len(images)\n"
    write(cwd / "own.py", text + "def number(images, prompts): return [len(made)] * len(images)")
    check_reward("own.py:F")
    assert scores_of("own.py:number") == [0, 0, 0]
    reward = load_reward("own.py:F", device="cpu")
    reward(noise(), PROMPTS)
    assert score_images(reward, noise(), PROMPTS).scores.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def g(images, prompts): pass", "file own.py has no function 'f'."),
        ("def f(images): pass", "which cannot be called with images and prompts (too many positional arguments); "),
        (
            "def f(images, prompts, seed): pass",
            "(missing a required argument: 'seed'); write it as ",
        ),
        (
            "class f:\n    def __init__(self, path): pass\n    def __call__(self, i, p): pass",
            "without 'path'; give every",
        ),
        ("class f: pass", "a class without __call__; give it __call__(self, images, prompts)."),
        ("class f:\n    def __call__(self, images): pass", "which cannot be called with images and prompts "),
        ("def f(:", "but own.py cannot be imported: invalid syntax, line 5; fix the file."),
        (
            "import no_such_package_at_all",
            "cannot be imported: there is no module 'no_such_package_at_all'; fix the file.",
        ),
    ],
)
def test_custom_rewards_that_cannot_be_called_are_rejected(cwd: Path, text: str, message: str) -> None:
    write(cwd / "own.py", text)
    with pytest.raises(UserError) as error:
        check_reward("own.py:f")
    assert message in str(error.value)
    assert str(error.value).startswith("reward is 'own.py:f'")


def test_a_corrected_file_is_read_again(cwd: Path) -> None:
    write(cwd / "own.py", "def f(images, prompts): return [1] * len(images)\nraise RuntimeError('not yet')")
    with pytest.raises(UserError, match="RuntimeError: not yet"):
        check_reward("own.py:f")
    write(cwd / "own.py", "def f(images, prompts): return [22] * len(images)")
    assert scores_of("own.py:f") == [22, 22, 22]


def test_a_module_in_the_current_directory_must_be_named_as_a_file(cwd: Path) -> None:
    write(cwd / "local_module.py", "def f(images, prompts): return [1, 2, 3]")
    with pytest.raises(UserError, match=r"If not, give its file, 'local_module.py:f'\.$"):
        check_reward("local_module:f")


@pytest.mark.parametrize(
    "output", ["None", "'abc'", "{'a': 1}", "([0.5, 0.1, 0.2], [])", "(None, {})", "[[1], [1, 2]]"]
)
def test_an_output_that_is_not_numbers_is_rejected(cwd: Path, output: str) -> None:
    write(cwd / "own.py", f"def f(images, prompts): return {output}")
    with pytest.raises(UserError, match=r"^reward own\.py:f returned a .* not one number per image; return "):
        load_reward("own.py:f")(noise(), PROMPTS)


@pytest.mark.parametrize("asynchronous", ["", "async "])
def test_an_exception_is_raised_unchanged(cwd: Path, asynchronous: str) -> None:
    write(cwd / "own.py", f"{asynchronous}def f(images, prompts): raise LookupError('the third image')")
    with pytest.raises(LookupError, match="the third image"):
        load_reward("own.py:f")(noise(), PROMPTS)


def test_an_async_reward_runs_inside_a_running_loop(cwd: Path) -> None:
    write(cwd / "own.py", OWN["asynchronous"])
    reward = load_reward("own.py:f")

    async def notebook() -> Tensor:
        return score_images(reward, noise(), PROMPTS).scores

    with ThreadPoolExecutor(1) as thread:  # not in pytest's own thread
        inside = thread.submit(asyncio.run, notebook()).result()
    assert torch.equal(inside, score_images(reward, noise(), PROMPTS).scores)


def test_metadata_reaches_every_term(cwd: Path) -> None:
    write(cwd / "own.py", "def f(images, prompts, metadata): return [item['count'] for item in metadata]")
    metadata = [{"count": 3}, {"count": 1}, {"count": 2}]
    reward = load_reward("own.py:f + 2*jpeg-size:compressible")
    assert score_images(reward, noise(), PROMPTS, metadata).terms["own.py:f"].tolist() == [3, 1, 2]
    assert score_images(load_reward("own.py:f"), noise(), PROMPTS, metadata).scores.tolist() == [3, 1, 2]


def test_a_function_from_python_is_scored_like_a_file() -> None:
    async def own(_images: Tensor, prompts: Sequence[str]) -> list[float]:
        return [float(len(prompt)) for prompt in prompts]

    scored = score_images(own, noise(), PROMPTS)
    assert scored.scores.tolist() == [len(prompt) for prompt in PROMPTS]
    assert scored.terms == {}


def test_a_term_of_the_wrong_shape_is_not_broadcast(cwd: Path) -> None:
    write(cwd / "own.py", "def f(images, prompts): return images.mean(dim=(2, 3))[:, :1]")
    with pytest.raises(UserError, match=r"^reward own\.py:f returned shape \(3, 1\) for 3 images; return "):
        load_reward("own.py:f + jpeg-size:compressible")(noise(), PROMPTS)


# Watched rewards


def test_watched_rewards_are_loaded_by_name(cwd: Path) -> None:
    write(cwd / "own.py", "def f(images, prompts): return [1, 2, 3]")
    watched = load_watched(["jpeg-size:compressible", "own.py:f"])
    assert list(watched) == ["jpeg-size:compressible", "own.py:f"]
    assert score_images(watched["own.py:f"], noise(), PROMPTS).scores.tolist() == [1, 2, 3]
    assert load_watched([]) == {}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["clip + bert"], "watched reward is 'clip + bert', a weighted sum; list its terms separately"),
        (["bert", "0.5*clip"], "watched reward is '0.5*clip', a weighted sum; "),
        (["clip", "clip"], "watched reward 'clip' is listed more than once; list it once."),
        (["clip", "beauty"], "watched reward is 'beauty'; give "),
        (["nowhere.py:f"], "there is no file nowhere.py; "),
    ],
)
@pytest.mark.parametrize("function", [check_watched, load_watched])
@pytest.mark.usefixtures("cwd")
def test_invalid_watched_rewards_are_rejected(
    function: Callable[[list[str]], object], names: list[str], message: str
) -> None:
    with pytest.raises(UserError) as error:
        function(names)
    assert message in str(error.value)


def test_numpy_scores_are_the_same_in_every_type() -> None:
    for dtype in (np.float16, np.float32, np.float64, np.int32, np.bool_):
        scored = score_images(lambda *_, d=dtype: np.array([0, 1, 1], dtype=d), noise(), PROMPTS)
        assert scored.scores.tolist() == [0, 1, 1]


# Scores and info


def test_a_custom_reward_may_return_scores_and_info(cwd: Path) -> None:
    text = "async def f(images, prompts): return [1, 2, 3], {'length': np.array([len(p) for p in prompts]), 'no': [1]}"
    write(cwd / "own.py", text)
    scored = score_images(load_reward("own.py:f"), noise(), PROMPTS)
    assert scored.scores.tolist() == [1, 2, 3]
    assert scored.info == {"length": [len(prompt) for prompt in PROMPTS]}
    summed = score_images(load_reward("own.py:f + jpeg-size:compressible"), noise(), PROMPTS)
    assert summed.info == {"own.py:f/length": [len(prompt) for prompt in PROMPTS]}


def test_scores_are_float64_on_the_cpu_without_a_gradient() -> None:
    weight = torch.ones((), requires_grad=True)
    scores = score_images(lambda images, _: weight * images.mean(dim=(1, 2, 3)), noise(), PROMPTS).scores
    assert (scores.dtype, scores.device.type, scores.requires_grad) == (torch.float64, "cpu", False)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (torch.zeros(3, 1), "reward x returned shape (3, 1) for 3 images; return one number per image, shape (3,)."),
        (1.0, "reward x returned shape () for 3 images; return one number per image, shape (3,)."),
        ([1.0, 2.0], "reward x returned shape (2,) for 3 images; return one number per image, shape (3,)."),
        ([1.0, math.nan, math.inf], "the reward of image 1 is nan."),
        ([1.0, 2.0, -math.inf], "the reward of image 2 is -inf."),
        ([1j, 2.0, 3.0], "reward x returned complex numbers; return real numbers."),
        (["1", "2", "3"], "reward x returned a list that is not one number per image; return "),
    ],
)
def test_one_check_rejects_all_invalid_scores(output: object, message: str) -> None:
    with pytest.raises(InvalidScoresError) as error:
        score_images(lambda *_: output, noise(), PROMPTS, name="x")
    assert str(error.value).startswith(message)


def test_a_sum_with_a_term_that_is_not_finite_is_rejected(cwd: Path) -> None:
    write(cwd / "own.py", "def f(images, prompts): return [1, float('nan'), 3]")
    with pytest.raises(InvalidScoresError, match=r"^the reward of image 1 is nan\.$"):
        scores_of("own.py:f + jpeg-size:compressible")


def test_every_built_in_reward_is_registered_by_its_module() -> None:
    for kind in (*BUILTIN_MODULES, CUSTOM):
        assert isinstance(reward_kind(kind), RewardKind)
    assert all(f"'{kind}" in reward_forms() for kind in BUILTIN_MODULES)
