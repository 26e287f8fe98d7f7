"""The BERT reward gives the same in this process and over a running `transformers serve`."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoProcessor

from b2diffurl.errors import RewardFailed, UserError
from b2diffurl.rewards.bert.bertscore import BERTScore
from b2diffurl.rewards.bert.captioner import Captioner, LocalCaptioner, to_jpeg
from b2diffurl.rewards.bert.reward import BertReward, BertSettings
from b2diffurl.rewards.interface import Reward
from tests.tiny_bert import CHAT_TEMPLATE, make_deberta, make_llava

START_SECONDS = 300
PROMPTS = ["a cat riding a bike", "a dog playing chess", "a bear washing dishes"]


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def deberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_deberta(tmp_path_factory.mktemp("deberta"), max_length=64)


@contextmanager
def transformers_serve(model: Path, log: Path) -> Generator[str]:
    """Serve a model on a free port of loopback; give its base_url."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [Path(sys.executable).with_name("transformers"), "serve", model, "--device", "cpu"]
    address = ["--host", "127.0.0.1", "--port", str(port)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with log.open("wb") as file:
        server = subprocess.Popen([*command, *address], env=environment, stdout=file, stderr=file)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", server, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.kill()
        server.wait()


def wait_for(health: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        assert server.poll() is None, log.read_text()
        try:
            if httpx2.get(health, trust_env=False).status_code == 200:
                return
        except httpx2.TransportError:
            time.sleep(0.1)
    pytest.fail(f"no server after {START_SECONDS} seconds: {log.read_text()}")


def pictures(num: int) -> Tensor:
    return torch.rand(num, 3, 24, 24, generator=torch.Generator().manual_seed(0))


def test_captions_and_rewards_agree_in_process_and_over_http(llava: Path, deberta: Path, tmp_path: Path) -> None:
    images, prompts = pictures(9), PROMPTS * 3
    here = BertReward(BertSettings(captioner=str(llava), encoder=str(deberta), num_layers=2, batch_size=4))
    in_process = here(images, prompts)
    with transformers_serve(llava, tmp_path / "log") as base_url:
        there = BertReward(
            BertSettings(captioner=str(llava), base_url=base_url, encoder=str(deberta), num_layers=2, max_concurrency=3)
        )
        served = there(images, prompts)
    assert there.info == here.info
    assert list(here.info) == ["caption", "precision", "f1"]
    captions = here.info["caption"]
    assert len(captions) == 9
    assert len(set(captions)) >= 5
    assert len({len(caption.split()) for caption in captions}) >= 3
    assert served.equal(in_process)


def test_reward_is_the_recall_of_the_caption_against_the_reference(llava: Path, deberta: Path) -> None:
    settings = BertSettings(
        captioner=str(llava), encoder=str(deberta), num_layers=2, reference="A picture of {prompt}!"
    )
    reward = BertReward(settings)
    assert isinstance(reward, Reward)
    assert reward.info == {}
    scores = reward(pictures(3), PROMPTS)
    captions = LocalCaptioner(str(llava))(pictures(3))
    match = BERTScore(str(deberta), num_layers=2)(captions, [f"A picture of {prompt}!" for prompt in PROMPTS])
    assert scores.equal(match.recall)
    assert not scores.equal(match.precision)
    assert reward.info == {"caption": captions, "precision": match.precision.tolist(), "f1": match.f1.tolist()}


def test_settings_reach_the_captioner(llava: Path, deberta: Path) -> None:
    settings = BertSettings(captioner=str(llava), encoder=str(deberta), num_layers=1, max_new_tokens=1, question="the")
    reward = BertReward(settings)
    reward(pictures(4), ["a"] * 4)
    assert max(len(caption.split()) for caption in reward.info["caption"]) == 1
    assert isinstance(reward.captioner, LocalCaptioner)
    assert reward.captioner.prompt == "USER: <image> the ASSISTANT:"


def test_a_server_that_is_gone_is_a_failure_and_no_score(llava: Path, deberta: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        base_url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        settings = BertSettings(
            captioner=str(llava), base_url=base_url, encoder=str(deberta), num_layers=1, max_retries=0
        )
        with pytest.raises(RewardFailed, match="1 tries"):
            BertReward(settings)(pictures(2), PROMPTS[:2])


def test_caption_does_not_depend_on_the_batch(llava: Path) -> None:
    whole = LocalCaptioner(str(llava))
    assert isinstance(whole, Captioner)
    assert whole(pictures(9)) == LocalCaptioner(str(llava), batch_size=2)(pictures(9))


def test_captions_are_cut_where_asked(llava: Path) -> None:
    short, full = LocalCaptioner(str(llava), max_new_tokens=2)(pictures(9)), LocalCaptioner(str(llava))(pictures(9))
    assert max(len(caption.split()) for caption in short) == 2
    assert all(caption.startswith(start) for start, caption in zip(short, full, strict=True))
    assert short != full


@pytest.mark.parametrize("start", ["", "{{ bos_token }} "])
def test_inputs_are_those_of_the_chat_template(tmp_path: Path, start: str) -> None:
    folder = make_llava(tmp_path, chat_template=start + CHAT_TEMPLATE)
    captioner = LocalCaptioner(str(folder), question="the cat")
    found = captioner._inputs(pictures(1))
    seen = tmp_path / "seen.jpg"
    seen.write_bytes(to_jpeg(pictures(1)[0], quality=80))
    content = [{"type": "image", "image": Image.open(seen)}, {"type": "text", "text": "the cat"}]
    expected = AutoProcessor.from_pretrained(folder).apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    assert set(found) == set(expected)
    assert all(found[name].equal(expected[name]) for name in expected)
    assert found["input_ids"][0].tolist().count(1) == 1


def test_half_precision_is_for_gpus_alone_unless_asked_for(llava: Path) -> None:
    assert LocalCaptioner(str(llava)).model.dtype == torch.float32
    half = LocalCaptioner(str(llava), dtype=torch.float16)
    assert half.model.dtype == torch.float16
    assert len(half(pictures(2))) == 2


def test_what_captions_no_pictures_is_refused(deberta: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"captioner .* could not be loaded"):
        LocalCaptioner(str(deberta))
    with pytest.raises(UserError, match=r"captioner .* could not be loaded: .*chat template"):
        LocalCaptioner(str(make_llava(tmp_path, chat_template=None)))
