"""Rewards by name: what names mean, what is refused, and that what is loaded gives the numbers it says."""

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
    WeightedSum,
    check_reward,
    check_watched,
    load_reward,
    load_watched,
    parse_reward,
    score_parts,
)
from b2diffurl.rewards.bert.reward import BertReward, BertSettings
from b2diffurl.rewards.clip import VIT_H_14, CLIPScore
from b2diffurl.rewards.jpeg_size import JPEGSize
from b2diffurl.rewards.pickscore import PickScore
from b2diffurl.rewards.remote.client import RemoteReward, RemoteSettings
from tests.tiny_bert import make_deberta

PROMPTS = ["a bear riding a bike", "a cat playing chess", "a dog washing dishes"]


def pictures(num: int = 3, *, size: int = 32) -> Tensor:
    return torch.rand(num, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
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
        ("../my rewards/a-b.py:f  +  clip.py:g", [(1, "../my rewards/a-b.py:f"), (1, "clip.py:g")]),
    ],
)
def test_a_line_is_parts_and_weights(text: str, expected: list[tuple[float, str]]) -> None:
    assert [(term.weight, term.name) for term in parse_reward(text)] == expected


REFUSED = {
    "aesthetic": "reward is 'aesthetic'; give 'clip:emoji', ",
    "": "a part is missing; ",
    "clip +": "a part is missing; ",
    "0.5*": "a part is missing; ",
    "0*clip": "'clip' has weight 0; leave it out",
    "clip - 0.0*bert": "'bert' has weight 0; leave it out",
    "1e999*clip": "the weight 1e999 is too large; give ",
    "clip + 2*clip": "has 'clip' more than once; name it once",
    "clip*2": "reward is 'clip*2'; write a weight before its part",
    "clip:emoji +0.5*bert": "write a weight before its part",
    "inf*clip": "write a weight before its part",
    "2 clip": "reward is '2 clip'; give ",
    "clip:": "reward is 'clip:', whose model is missing; give ",
    "pickscore:": "reward is 'pickscore:', whose model is missing; give ",
    "clip:emoji+bert": "whose model is no directory; give ",
    "clip:./nowhere": "whose model is no directory; give ",
    "clip:too/many/parts": "whose model is no directory; give ",
    "jpeg-size": "give 'jpeg-size:compressible' or 'jpeg-size:incompressible'.",
    "jpeg-size:small": "give 'jpeg-size:compressible' or 'jpeg-size:incompressible'.",
    "bert:deberta": "reward is 'bert:deberta'; give 'bert'",
    "remote:": "which has no address; give ",
    "remote:localhost:80": "which has no address; give ",
    "remote:http://host:99999": "give http://HOST:PORT",
    "my_reward.py": "name the function in that file too: 'my_reward.py:FUNCTION'.",
    "my_reward.py:": "give ",
    "nowhere.py:f": "there is no file nowhere.py; give an absolute path or one relative to ",
    "nowhere.at_all:f": "there is no module 'nowhere'; is it on the Python path? If not, give FILE.py:FUNCTION.",
    ".relative:f": "which has no valid module; give ",
    "math:nope": "module math has no function 'nope'.",
    "math:pi": "module math has no function 'pi'.",
    "math:sqrt": "which cannot be called with pictures and prompts ",
}


@pytest.mark.parametrize("text", REFUSED)
@pytest.mark.usefixtures("here")
def test_what_is_no_reward_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(UserError) as refused:
        check_reward(text)
    message = str(refused.value)
    assert REFUSED[text] in message
    assert message.endswith(".")
    assert "\n" not in message


@pytest.mark.parametrize("text", ["remote:http://me:secret@host", "clip + 0*remote:https://secret@host:80"])
def test_a_password_is_not_repeated(text: str) -> None:
    with pytest.raises(UserError, match="in the environment") as refused:
        check_reward(text)
    assert "secret" not in str(refused.value)


def test_a_directory_that_holds_no_model_is_refused(here: Path) -> None:
    (here / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty has no config\.json; give "):
        check_reward("clip:empty")


def test_checking_loads_no_model() -> None:
    names = ["clip", "pickscore", "bert", "remote:http://127.0.0.1:1", "jpeg-size:compressible"]
    code = f"from b2diffurl.rewards import check_reward; import sys; [check_reward(x) for x in {names}]\n"
    code += "print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# Ours


def test_one_part_without_a_weight_is_the_reward_itself() -> None:
    assert isinstance(load_reward("clip:emoji"), CLIPScore)
    assert isinstance(load_reward(f"1*clip:{emoji.clip_dir()}"), CLIPScore)
    assert load_reward("jpeg-size:incompressible") == JPEGSize(aim="incompressible")
    assert isinstance(load_reward("-jpeg-size:incompressible"), WeightedSum)


def test_a_sum_is_the_sum_of_its_parts() -> None:
    images = pictures()
    reward = load_reward("0.5*clip:emoji - 0.25*jpeg-size:incompressible")
    clip, size = CLIPScore("emoji")(images, PROMPTS).double(), JPEGSize(aim="incompressible")(images, PROMPTS)
    total, parts = score_parts(reward, images, PROMPTS)
    assert list(parts) == ["clip:emoji", "jpeg-size:incompressible"]
    assert torch.equal(parts["clip:emoji"], clip)
    assert torch.equal(parts["jpeg-size:incompressible"], size)
    torch.testing.assert_close(total, 0.5 * clip - 0.25 * size, atol=1e-12, rtol=0)
    assert torch.equal(reward(images, PROMPTS), total)


def test_a_single_reward_has_no_parts() -> None:
    total, parts = score_parts(JPEGSize(aim="compressible"), pictures(), PROMPTS)
    assert torch.equal(total, JPEGSize(aim="compressible")(pictures(), PROMPTS))
    assert parts == {}


def test_jpeg_size_is_that_of_ddpo() -> None:
    images = pictures(4, size=24) * 1.2 - 0.1  # DDPO clamps too
    expected: list[float] = []
    for image in images:
        pixels = (image * 255).round().clamp(0, 255).to(torch.uint8).numpy().transpose(1, 2, 0)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="JPEG", quality=95)
        expected.append(len(buffer.getvalue()) / 1000)
    assert load_reward("jpeg-size:incompressible")(images, ["a"] * 4).tolist() == expected
    assert load_reward("jpeg-size:compressible")(images, ["a"] * 4).tolist() == [-size for size in expected]


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
    """As its model card computes it: unit vectors of transformers' own projections, times exp(logit_scale)."""
    folder, images = tiny_preference_model(tmp_path), pictures()
    model = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
    pixels = CLIPImageProcessorPil.from_pretrained(folder)([to_pil(x) for x in images], return_tensors="pt")
    tokens = CLIPTokenizer.from_pretrained(folder)(PROMPTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**pixels, **tokens).logits_per_image.diagonal()
        cosines = CLIPScore(str(folder))(images, PROMPTS)
    scores = load_reward(f"pickscore:{folder}")(images, PROMPTS)
    torch.testing.assert_close(scores, logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(scores, cosines * math.exp(3.0), atol=1e-5, rtol=0)


def test_pickscore_is_no_clipscore(tmp_path: Path) -> None:
    """The evaluation takes a reward that is a CLIPScore for its judge."""
    loaded = load_reward(f"pickscore:{tiny_preference_model(tmp_path)}")
    assert isinstance(loaded, PickScore)
    assert not isinstance(loaded, CLIPScore)


@pytest.mark.parametrize(("missing", "cause"), [("tokenizer*", "has no tokenizer; "), ("model*", "")])
def test_a_model_that_is_not_whole_is_refused(tmp_path: Path, missing: str, cause: str) -> None:
    """Without its files transformers would make up a tokenizer that knows no word."""
    tiny_preference_model(tmp_path)
    for file in tmp_path.glob(missing):
        file.unlink()
    for name in ("clip", "pickscore"):
        with pytest.raises(UserError, match=f"^reward {name}:{tmp_path} could not be loaded: .*{cause}"):
            load_reward(f"{name}:{tmp_path}")


# In other processes


class Server(BaseHTTPRequestHandler):
    """A reward server that gives each picture the length of its prompt."""

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet."""

    def do_GET(self) -> None:
        self.answer({"status": "ok", "reward": "length"})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.answer({"rewards": [float(len(prompt)) for prompt in asked["prompts"]], "info": {}})

    def answer(self, told: dict[str, Any]) -> None:
        body = json.dumps(told).encode()
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


def test_a_remote_reward_is_a_part_like_any_other(server: str) -> None:
    asked = RemoteSettings(batch_size=2)
    reward = load_reward(f"remote:{server}", remote=asked)
    assert isinstance(reward, RemoteReward)
    assert reward.settings == asked
    total, parts = score_parts(load_reward(f"0.5*remote:{server} + jpeg-size:compressible"), pictures(), PROMPTS)
    lengths = torch.tensor([len(prompt) for prompt in PROMPTS], dtype=torch.float64)
    assert torch.equal(parts[f"remote:{server}"], lengths)
    assert torch.equal(total, 0.5 * lengths + parts["jpeg-size:compressible"])


def test_a_server_that_is_not_there_is_told_when_its_reward_is_loaded() -> None:
    check_reward("remote:http://127.0.0.1:1")
    with pytest.raises(UserError, match=r"no reward server answers at http://127\.0\.0\.1:1 "):
        load_reward("remote:http://127.0.0.1:1")


def test_settings_reach_the_bert_reward(tmp_path: Path) -> None:
    encoder = str(make_deberta(tmp_path, max_length=64))
    asked = BertSettings(captioner="any", base_url="http://127.0.0.1:1/v1", encoder=encoder, num_layers=2)
    reward = load_reward("bert", bert=asked)
    assert isinstance(reward, BertReward)
    assert reward.settings == asked
    assert isinstance(load_watched(["bert"], bert=asked)["bert"], BertReward)


# The user's own

OWN = {
    "tensor": "def f(images, prompts): return images.mean(dim=(1, 2, 3))",
    "list": "def f(images, prompts): return [float(image.mean()) for image in images]",
    "list_of_tensors": "def f(images, prompts): return [image.mean() for image in images]",
    "array": "def f(images, prompts): return images.numpy().mean(axis=(1, 2, 3))",
    "turned_array": "def f(images, prompts): return images.flip(0).numpy().mean(axis=(1, 2, 3))[::-1]",
    "with_gradient": """w = torch.ones((), requires_grad=True)
def f(images, prompts): return w * images.mean(dim=(1, 2, 3))""",
    "metadata": """def f(images, prompts, metadata):
    assert list(metadata) == [{}] * len(prompts)
    return images.mean(dim=(1, 2, 3))""",
    "asynchronous": """async def f(images, prompts):
    async def one(index):
        await asyncio.sleep(0.01 * (len(images) - index))  # the last is done first
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
def test_ones_own_reward_may_be_many_things(here: Path, kind: str) -> None:
    (here / "sub").mkdir()
    write(here / "sub" / "own.py", OWN[kind])
    check_reward("sub/own.py:f")
    scores = load_reward("sub/own.py:f")(pictures(), PROMPTS)
    assert not scores.requires_grad
    torch.testing.assert_close(scores.double(), pictures().mean(dim=(1, 2, 3)).double(), atol=1e-6, rtol=0)


def test_python_numbers_keep_their_precision(here: Path) -> None:
    write(here / "own.py", "def f(images, prompts): return [1e8, 1e8 + 1, 0]\ndef g(images, prompts): return [0, 1, 1]")
    assert load_reward("own.py:f")(pictures(), PROMPTS).tolist() == [1e8, 1e8 + 1, 0]
    assert load_reward("own.py:g")(pictures(), PROMPTS).dtype == torch.int64


def test_a_file_is_read_once_and_may_import_its_neighbours(here: Path) -> None:
    write(here / "neighbour_of_own.py", "loads = []")
    text = "import neighbour_of_own\nneighbour_of_own.loads.append(1)\n"
    text += "def f(images, prompts): return torch.full((len(images),), float(len(neighbour_of_own.loads)))\ng = f"
    write(here / "own.py", text)
    before = list(sys.path)
    check_reward("own.py:f")
    assert load_reward(f"own.py:f - {here}/own.py:g")(pictures(), PROMPTS).tolist() == [0, 0, 0]
    assert load_reward("own.py:g")(pictures(), PROMPTS).tolist() == [1, 1, 1]
    assert sys.path == before


def test_a_file_may_be_called_like_a_module(here: Path) -> None:
    write(here / "math.py", "def f(images, prompts): return [1, 2, 3]")
    assert load_reward("math.py:f")(pictures(), PROMPTS).tolist() == [1, 2, 3]
    assert math.sqrt(4) == 2


def test_a_class_is_made_once_and_only_when_it_is_loaded(here: Path) -> None:
    text = "made = []\nclass F:\n    def __init__(self, *, device): made.append(device)\n"
    text += "    def __call__(self, images, prompts): return [len(made)] * len(images)\n"
    write(here / "own.py", text + "def number(images, prompts): return [len(made)] * len(images)")
    check_reward("own.py:F")
    assert load_reward("own.py:number")(pictures(), PROMPTS).tolist() == [0, 0, 0]
    reward = load_reward("own.py:F", device="cpu")
    reward(pictures(), PROMPTS)
    assert reward(pictures(), PROMPTS).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def g(images, prompts): pass", "file own.py has no function 'f'."),
        ("def f(images): pass", "which cannot be called with pictures and prompts (too many positional arguments); "),
        (
            "def f(images, prompts, seed): pass",
            "(missing a required argument: 'seed'); write it as ",
        ),
        (
            "class f:\n    def __init__(self, path): pass\n    def __call__(self, i, p): pass",
            "without 'path'; give every",
        ),
        ("class f: pass", "a class without __call__; give it __call__(self, images, prompts)."),
        ("class f:\n    def __call__(self, images): pass", "which cannot be called with pictures and prompts "),
        ("def f(:", "but own.py cannot be imported: invalid syntax, line 5; fix the file."),
        (
            "import no_such_package_at_all",
            "cannot be imported: there is no module 'no_such_package_at_all'; fix the file.",
        ),
    ],
)
def test_own_rewards_that_cannot_be_called_are_refused(here: Path, text: str, said: str) -> None:
    write(here / "own.py", text)
    with pytest.raises(UserError) as refused:
        check_reward("own.py:f")
    assert said in str(refused.value)
    assert str(refused.value).startswith("reward is 'own.py:f'")


def test_a_file_that_is_mended_is_read_again(here: Path) -> None:
    write(here / "own.py", "def f(images, prompts): return [1] * len(images)\nraise RuntimeError('not yet')")
    with pytest.raises(RuntimeError, match="not yet"):
        check_reward("own.py:f")
    write(here / "own.py", "def f(images, prompts): return [22] * len(images)")
    assert load_reward("own.py:f")(pictures(), PROMPTS).tolist() == [22, 22, 22]


def test_a_module_that_only_lies_here_is_named_as_a_file(here: Path) -> None:
    write(here / "lies_here.py", "def f(images, prompts): return [1, 2, 3]")
    with pytest.raises(UserError, match=r"If not, give its file, 'lies_here.py:f'\.$"):
        check_reward("lies_here:f")


@pytest.mark.parametrize("given", ["None", "'abc'", "{'a': 1}", "([0.5, 0.1, 0.2], {})", "[[1], [1, 2], [3]]"])
def test_what_is_no_row_of_numbers_is_refused(here: Path, given: str) -> None:
    write(here / "own.py", f"def f(images, prompts): return {given}")
    with pytest.raises(UserError, match=r"^reward own\.py:f gave a .* no row of numbers; return "):
        load_reward("own.py:f")(pictures(), PROMPTS)


@pytest.mark.parametrize("asynchronous", ["", "async "])
def test_an_exception_comes_through(here: Path, asynchronous: str) -> None:
    write(here / "own.py", f"{asynchronous}def f(images, prompts): raise LookupError('the third picture')")
    with pytest.raises(LookupError, match="the third picture"):
        load_reward("own.py:f")(pictures(), PROMPTS)


def test_an_async_reward_runs_inside_a_running_loop(here: Path) -> None:
    write(here / "own.py", OWN["asynchronous"])
    reward = load_reward("own.py:f")

    async def notebook() -> Tensor:
        return reward(pictures(), PROMPTS)

    with ThreadPoolExecutor(1) as thread:  # away from pytest's own thread
        inside = thread.submit(asyncio.run, notebook()).result()
    assert torch.equal(inside, reward(pictures(), PROMPTS))


def test_metadata_comes_through_to_every_part(here: Path) -> None:
    write(here / "own.py", "def f(images, prompts, metadata): return [item['count'] for item in metadata]")
    metadata = [{"count": 3}, {"count": 1}, {"count": 2}]
    reward = load_reward("own.py:f + 2*jpeg-size:compressible")
    _, parts = score_parts(reward, pictures(), PROMPTS, metadata)
    assert parts["own.py:f"].tolist() == [3, 1, 2]
    total, _ = score_parts(load_reward("own.py:f"), pictures(), PROMPTS, metadata)
    assert total.tolist() == [3, 1, 2]


def test_a_function_from_python_is_scored_like_a_file() -> None:
    async def own(_images: Tensor, prompts: Sequence[str]) -> list[float]:
        return [float(len(prompt)) for prompt in prompts]

    total, parts = score_parts(own, pictures(), PROMPTS)
    assert total.tolist() == [len(prompt) for prompt in PROMPTS]
    assert parts == {}


def test_a_part_of_the_wrong_shape_is_not_broadcast(here: Path) -> None:
    write(here / "own.py", "def f(images, prompts): return images.mean(dim=(2, 3))[:, :1]")
    with pytest.raises(UserError, match=r"^reward own\.py:f gave shape \(3, 1\) for 3 pictures; return "):
        load_reward("own.py:f + jpeg-size:compressible")(pictures(), PROMPTS)


# Watched rewards


def test_watched_rewards_come_by_name(here: Path) -> None:
    write(here / "own.py", "def f(images, prompts): return [1, 2, 3]")
    watched = load_watched(["jpeg-size:compressible", "own.py:f"])
    assert list(watched) == ["jpeg-size:compressible", "own.py:f"]
    assert watched["own.py:f"](pictures(), PROMPTS).tolist() == [1, 2, 3]
    assert load_watched([]) == {}


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["clip + bert"], "watched reward is 'clip + bert', a weighted sum; name each part on its own"),
        (["bert", "0.5*clip"], "watched reward is '0.5*clip', a weighted sum; "),
        (["clip", "clip"], "watched reward 'clip' is there more than once; name it once."),
        (["clip", "aesthetic"], "watched reward is 'aesthetic'; give "),
        (["nowhere.py:f"], "there is no file nowhere.py; "),
    ],
)
@pytest.mark.parametrize("refuse", [check_watched, load_watched])
@pytest.mark.usefixtures("here")
def test_what_cannot_be_watched_is_refused(refuse: Callable[[list[str]], object], names: list[str], said: str) -> None:
    with pytest.raises(UserError) as refused:
        refuse(names)
    assert said in str(refused.value)


def test_numpy_scores_are_the_same_in_every_type() -> None:
    for dtype in (np.float16, np.float32, np.float64, np.int32, np.bool_):
        total, _ = score_parts(lambda *_, d=dtype: np.array([0, 1, 1], dtype=d), pictures(), PROMPTS)
        assert total.double().tolist() == [0, 1, 1]
