"""The BERT reward returns the same scores in this process and with a running `transformers serve`."""

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
from b2diffurl.rewards.bert.reward import BertReward
from b2diffurl.rewards.bert.settings import BertSettings
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
    """Serve a model on a free port of the loopback interface; yield its base_url."""
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


def noise(num: int) -> Tensor:
    return torch.rand(num, 3, 24, 24, generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
def test_captions_and_rewards_agree_in_process_and_over_http(llava: Path, deberta: Path, tmp_path: Path) -> None:
    images, prompts = noise(9), PROMPTS * 3
    local = BertReward(BertSettings(captioner=str(llava), encoder=str(deberta), num_layers=2, batch_size=4))
    in_process, local_info = local(images, prompts)
    with transformers_serve(llava, tmp_path / "log") as base_url:
        remote = BertReward(
            BertSettings(captioner=str(llava), base_url=base_url, encoder=str(deberta), num_layers=2, max_concurrency=3)
        )
        served, served_info = remote(images, prompts)
    assert served_info == local_info
    assert list(local_info) == ["caption", "precision", "f1"]
    captions = local_info["caption"]
    assert len(captions) == 9
    assert len(set(captions)) >= 5
    assert len({len(caption.split()) for caption in captions}) >= 3
    assert served.equal(in_process)


def test_reward_is_the_recall_of_the_caption_against_the_reference(llava: Path, deberta: Path) -> None:
    settings = BertSettings(captioner=str(llava), encoder=str(deberta), num_layers=2, reference="An image of {prompt}!")
    reward = BertReward(settings)
    assert isinstance(reward, Reward)
    scores, info = reward(noise(3), PROMPTS)
    captions = LocalCaptioner(settings)(noise(3))
    match = BERTScore(str(deberta), num_layers=2)(captions, [f"An image of {prompt}!" for prompt in PROMPTS])
    assert scores.equal(match.recall)
    assert not scores.equal(match.precision)
    assert info == {"caption": captions, "precision": match.precision.tolist(), "f1": match.f1.tolist()}


def test_settings_reach_the_captioner(llava: Path, deberta: Path) -> None:
    settings = BertSettings(captioner=str(llava), encoder=str(deberta), num_layers=1, max_new_tokens=1, question="the")
    reward = BertReward(settings)
    _, info = reward(noise(4), ["a"] * 4)
    assert max(len(caption.split()) for caption in info["caption"]) == 1
    assert isinstance(reward.captioner, LocalCaptioner)
    assert reward.captioner.prompt == "USER: <image> the ASSISTANT:"


def test_a_missing_server_is_a_failure_and_not_a_score(llava: Path, deberta: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        base_url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        settings = BertSettings(
            captioner=str(llava), base_url=base_url, encoder=str(deberta), num_layers=1, max_retries=0
        )
        with pytest.raises(RewardFailed, match="1 attempts"):
            BertReward(settings)(noise(2), PROMPTS[:2])


def test_caption_does_not_depend_on_the_batch(llava: Path) -> None:
    whole = LocalCaptioner(BertSettings(captioner=str(llava)))
    assert isinstance(whole, Captioner)
    assert whole(noise(9)) == LocalCaptioner(BertSettings(captioner=str(llava), batch_size=2))(noise(9))


def test_captions_are_truncated_at_max_new_tokens(llava: Path) -> None:
    short = LocalCaptioner(BertSettings(captioner=str(llava), max_new_tokens=2))(noise(9))
    full = LocalCaptioner(BertSettings(captioner=str(llava)))(noise(9))
    assert max(len(caption.split()) for caption in short) == 2
    assert all(caption.startswith(start) for start, caption in zip(short, full, strict=True))
    assert short != full


@pytest.mark.parametrize("start", ["", "{{ bos_token }} "])
def test_inputs_are_those_of_the_chat_template(tmp_path: Path, start: str) -> None:
    folder = make_llava(tmp_path, chat_template=start + CHAT_TEMPLATE)
    captioner = LocalCaptioner(BertSettings(captioner=str(folder), question="the cat"))
    inputs = captioner._inputs(noise(1))
    jpeg = tmp_path / "image.jpg"
    jpeg.write_bytes(to_jpeg(noise(1)[0], quality=80))
    content = [{"type": "image", "image": Image.open(jpeg)}, {"type": "text", "text": "the cat"}]
    expected = AutoProcessor.from_pretrained(folder).apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    assert set(inputs) == set(expected)
    assert all(inputs[name].equal(expected[name]) for name in expected)
    assert inputs["input_ids"][0].tolist().count(1) == 1


def test_half_precision_is_for_gpus_unless_it_is_requested(llava: Path) -> None:
    assert LocalCaptioner(BertSettings(captioner=str(llava))).model.dtype == torch.float32
    half = LocalCaptioner(BertSettings(captioner=str(llava)), dtype=torch.float16)
    assert half.model.dtype == torch.float16
    assert len(half(noise(2))) == 2


def test_a_model_that_cannot_caption_images_is_rejected(deberta: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"captioner .* could not be loaded"):
        LocalCaptioner(BertSettings(captioner=str(deberta)))
    with pytest.raises(UserError, match=r"captioner .* could not be loaded: .*chat template"):
        LocalCaptioner(BertSettings(captioner=str(make_llava(tmp_path, chat_template=None))))
