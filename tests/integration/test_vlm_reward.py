"""The reward vlm against a server that computes real log-probs of a tiny vision-language model."""

import base64
import io
import math
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from PIL import Image
from torch import Tensor

from b2diffurl.analysis.compare import compare
from b2diffurl.analysis.evaluate import EvaluationSettings
from b2diffurl.analysis.sample import Generation
from b2diffurl.cli import main
from b2diffurl.errors import RewardFailed, UserError
from b2diffurl.images import from_pil
from b2diffurl.rewards import RewardSettings, check_reward, load_reward, score_images
from b2diffurl.rewards.bert.captioner import LocalCaptioner
from b2diffurl.rewards.bert.settings import BertSettings
from b2diffurl.rewards.interface import Reward
from b2diffurl.rewards.settings import VLMSettings
from b2diffurl.rewards.vlm import QUESTION, VLMReward, probability_of
from tests.tiny_bert import WORDS, make_llava

PROMPTS = ["a cat on a bike", "a dog", "a bear", "a red cat"]
Answer = dict[str, Any]


def noise(num: int = 4) -> Tensor:
    """Create random images that 8 bits represent exactly."""
    return torch.randint(0, 256, (num, 3, 24, 24), generator=torch.Generator().manual_seed(0)) / 255


class Model:
    """A random LLaVA that returns the log-probs of its first token, in float64."""

    def __init__(self, folder: Path) -> None:
        make_llava(folder, words=f"{WORDS} yes Yes no No Does this figure show")
        self.captioner = LocalCaptioner(BertSettings(captioner=str(folder)))

    @torch.no_grad()
    def log_probs(self, image: Tensor, question: str) -> dict[str, float]:
        """Return the log-prob of every word."""
        processor = self.captioner.processor
        text = self.captioner._prompt(question)
        pixels = Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy())
        inputs = processor(text=[text], images=[[pixels]], return_tensors="pt")
        values = self.captioner.model(**inputs).logits[0, -1].double().log_softmax(-1).tolist()
        return dict(zip(processor.tokenizer.convert_ids_to_tokens(range(len(values))), values, strict=True))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model(tmp_path_factory.mktemp("llava"))


def completion(log_probs: dict[str, float] | None, *, num: int = 20) -> Answer:
    """Write an answer as OpenAI's API does; a leading space is part of a token."""
    choice: Answer = {"message": {"role": "assistant", "content": "x"}, "logprobs": None}
    if log_probs is not None:
        top = sorted(log_probs.items(), key=lambda entry: -entry[1])[:num]
        entries = [{"token": token, "logprob": value} for token, value in top]
        choice["logprobs"] = {"content": [{**entries[0], "top_logprobs": entries}] if entries else []}
    return {"choices": [choice]}


@contextmanager
def served(answer: Callable[[Tensor, str, Answer], Answer], *, key: str | None = None) -> Generator[str]:
    """Run a server with OpenAI's chat completions on a free port of the loopback interface; yield its base_url."""
    app = FastAPI()

    def authorize(request: Request) -> None:
        if key is not None and request.headers.get("Authorization") != f"Bearer {key}":
            raise HTTPException(401, "the key is wrong")

    @app.get("/v1/models")
    def models(request: Request) -> Answer:
        authorize(request)
        return {"data": []}

    @app.post("/v1/chat/completions")
    async def complete(request: Request) -> Answer:
        authorize(request)
        body = await request.json()
        image, text = body["messages"][0]["content"]
        head, encoded = image["image_url"]["url"].split(",")
        assert head == "data:image/png;base64"
        pixels = from_pil(Image.open(io.BytesIO(base64.b64decode(encoded))))
        return answer(pixels, text["text"], body)

    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        finally:
            server.should_exit = True
            thread.join()


def settings_of(base_url: str, **changes: Any) -> RewardSettings:
    return RewardSettings(vlm=VLMSettings(base_url=base_url, model="a model", max_retries=0, **changes))


@pytest.mark.parametrize(("name", "question"), [("vlm", QUESTION), ("vlm:the {prompt} plays chess", "")])
def test_the_score_is_the_probability_of_yes(model: Model, name: str, question: str) -> None:
    """The whole vocabulary is in no answer, but "yes" and "Yes" may be among the 20 most probable tokens."""
    bodies: list[Answer] = []

    def answer(image: Tensor, text: str, body: Answer) -> Answer:
        bodies.append(body)
        return completion(model.log_probs(image, text), num=body["top_logprobs"])

    images, question = noise(), question or name.removeprefix("vlm:")
    with served(answer) as base_url:
        reward = load_reward(name, settings_of(base_url, max_concurrency=3))
        assert isinstance(reward, Reward)
        scored = score_images(reward, images, PROMPTS)
    expected, noes = [], []
    for image, prompt in zip(images, PROMPTS, strict=True):
        log_probs = model.log_probs(image, question.replace("{prompt}", prompt))
        top = dict(sorted(log_probs.items(), key=lambda entry: -entry[1])[:20])
        expected.append(sum(math.exp(top[word]) for word in ("yes", "Yes") if word in top))
        noes.append(sum(math.exp(top[word]) for word in ("no", "No") if word in top))
    assert scored.scores.tolist() == pytest.approx(expected, abs=1e-12)
    assert scored.info["no"] == pytest.approx(noes, abs=1e-12)
    assert len(set(expected)) > 1
    assert len(scored.info["answer"]) == len(images)
    body = bodies[0]
    options = {key: value for key, value in body.items() if key != "messages"}
    assert options == {"model": "a model", "temperature": 1, "max_tokens": 1, "logprobs": True, "top_logprobs": 20}


def test_all_spellings_are_added_and_other_words_are_not() -> None:
    entries = [(token, math.log(0.1)) for token in ("Yes", " yes", "\u2581YES", "\u0120Yes", "yes.", "Yesterday", "no")]
    assert probability_of("yes", entries) == pytest.approx(0.5)
    assert probability_of("no", entries) == pytest.approx(0.1)
    assert probability_of("yes", [("maybe", 0.0)]) == 0.0
    assert probability_of("yes", [("yes", 1e-6)]) == 1.0


MISSING = (
    r"image 0 of 1: the answer has no top_logprobs; use a server and a model that return log-probs, such as vLLM\.$"
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (completion(None), MISSING),
        (completion({}), MISSING),
        ({"choices": [{"message": {"content": "yes"}}]}, MISSING),
        ({"choices": []}, r"the answer is not a chat completion\.$"),
        (completion({"yes": 3.0}), r"the top_logprobs of the answer are empty or invalid\.$"),
    ],
)
def test_an_answer_without_log_probs_is_a_failure_and_not_a_score(content: Answer, message: str) -> None:
    with served(lambda *_: content) as base_url:
        reward = load_reward("vlm", settings_of(base_url))
        with pytest.raises(RewardFailed, match=message) as failure:
            reward(noise(1), PROMPTS[:1])
    assert "\n" not in str(failure.value)


def test_a_key_is_sent_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    with served(lambda *_: completion({"Yes": math.log(0.25)}), key="a-key-of-tests") as base_url:
        settings = settings_of(base_url, api_key_variable="VLM_KEY")
        with pytest.raises(UserError, match=r"whose server rejects the key; set the environment variable VLM_KEY\.$"):
            load_reward("vlm", settings)
        monkeypatch.setenv("VLM_KEY", "a-key-of-tests")
        scores = score_images(load_reward("vlm", settings), noise(1), PROMPTS[:1]).scores
    assert scores.tolist() == pytest.approx([0.25])


def test_a_missing_server_is_reported_when_the_reward_is_loaded() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        settings = settings_of(f"http://127.0.0.1:{unused.getsockname()[1]}/v1")
        check_reward("vlm:Is it red?", settings)
        with pytest.raises(UserError, match=r"where no server answers \(.*\); start it, or correct the address\.$"):
            load_reward("vlm", settings)
        with pytest.raises(RewardFailed, match="did not score image 0 of 1: 1 attempts, the last: "):
            VLMReward(settings.vlm)(noise(1), PROMPTS[:1])


def test_settings_without_a_model_are_refused() -> None:
    with pytest.raises(UserError, match=r"vlm\.model is empty; give the model's name on the server\.$"):
        check_reward("vlm", RewardSettings(vlm=VLMSettings(base_url="http://127.0.0.1:1/v1")))
    with pytest.raises(UserError, match=r"vlm\.base_url is 'ftp://x'; give one such as "):
        VLMSettings(base_url="ftp://x")


def test_evaluate_and_compare_use_the_settings_of_the_reward(capsys: pytest.CaptureFixture[str]) -> None:
    prompts = ("a cat riding a bike", "a dog riding a bike")
    with served(lambda *_: completion({"yes": math.log(0.25), "no": math.log(0.75)})) as base_url:
        words = ["evaluate", "emoji", "--prompts", *prompts, "--num-images", "2", "--reward", "vlm", "--judge", "none",
                 "--num-inference-steps", "2", "--device", "cpu"]  # fmt: skip
        code = main([*words, "--vlm.base-url", base_url, "--vlm.model", "a model"])
        compared = compare(
            "emoji", prompts, loras=[], evaluation=EvaluationSettings(num_images=2, judge="none", reward=("vlm",)),
            generation=Generation(num_inference_steps=2), reward_settings=settings_of(base_url),
        )  # fmt: skip
    printed = capsys.readouterr()
    assert code == 0, printed.err
    assert "0.2500" in printed.out
    assert compared.evaluated[0].metrics["vlm"].mean == pytest.approx(0.25)
    assert main(words) == 2
    assert "vlm.base_url" in capsys.readouterr().err
