"""The rewards aesthetic and hpsv2 on the embedded CLIP, and training on their scales."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import b2diffurl
from b2diffurl import emoji
from b2diffurl.errors import UserError
from b2diffurl.rewards import RewardSettings, check_reward, load_reward
from b2diffurl.rewards.aesthetic import Aesthetic, load_head
from b2diffurl.rewards.clip import CLIPScore
from b2diffurl.rewards.hpsv2 import HPSv2
from b2diffurl.rewards.settings import AestheticSettings, HPSv2Settings
from b2diffurl.run.settings import Run
from tests.reference import aesthetic as twin

CLIP = str(emoji.clip_dir())
PROMPTS = ["a bear riding a bike", "a cat playing chess", "a dog washing dishes"]
REVISION = "0123456789abcdef0123456789abcdef01234567"


def noise() -> Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Published(nn.Module):
    """The network as the public code defines it, dropout included."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, 1024),
            nn.Dropout(0.2),
            nn.Linear(1024, 128),
            nn.Dropout(0.2),
            nn.Linear(128, 64),
            nn.Dropout(0.1),
            nn.Linear(64, 16),
            nn.Linear(16, 1),
        )


@pytest.fixture(scope="module")
def width() -> int:
    return json.loads((emoji.clip_dir() / "config.json").read_text(encoding="utf-8"))["projection_dim"]


def head(width: int, *, spread: float = 1.0, offset: float = 5.0) -> dict[str, Tensor]:
    torch.manual_seed(0)
    tensors = dict(Published(width).state_dict())
    tensors["layers.7.weight"] = tensors["layers.7.weight"] * spread
    tensors["layers.7.bias"] = torch.full((1,), offset)
    return tensors


@pytest.fixture
def weights(width: int, tmp_path: Path) -> Path:
    """A random network in the form of the published file."""
    torch.save(head(width), tmp_path / "head.pth")
    return tmp_path / "head.pth"


def settings_of(weights: Path) -> RewardSettings:
    return RewardSettings(aesthetic=AestheticSettings(weights=str(weights), clip=CLIP))


def test_the_aesthetic_score_is_that_of_the_public_code(weights: Path, width: int) -> None:
    reward = load_reward("aesthetic", settings_of(weights))
    assert isinstance(reward, Aesthetic)
    scores = reward(noise(), PROMPTS)
    assert isinstance(scores, Tensor)
    published = Published(width).eval()
    published.load_state_dict(head(width))
    embeddings = CLIPScore(CLIP).embed_images(noise(), unit=False)
    unit = embeddings / torch.linalg.vector_norm(embeddings, dim=-1, keepdim=True)
    with torch.no_grad():
        torch.testing.assert_close(scores, published.layers(unit).squeeze(1), atol=1e-5, rtol=0)
    lists = {name: tensor.tolist() for name, tensor in head(width).items()}
    assert float(scores[0]) == pytest.approx(twin.score(embeddings[0].tolist(), lists), abs=1e-4)
    assert len(set(scores.tolist())) == 3


def test_a_safetensors_file_and_names_without_a_prefix_are_read_too(weights: Path, width: int) -> None:
    plain = {name.removeprefix("layers."): tensor for name, tensor in head(width).items()}
    save_file(plain, weights.with_suffix(".safetensors"))
    networks = [load_head(file, width=width) for file in (weights, weights.with_suffix(".safetensors"))]
    one, other = (network.state_dict() for network in networks)
    assert len(one) == 10
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not any(parameter.requires_grad for parameter in networks[0].parameters())


class Harmful:
    """Would run code if it were unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("ran"),)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"layers.0.weight": torch.zeros(3)}, "do not have layers of "),
        (nn.Linear(2, 2), r"could not be read \(UnpicklingError\); give "),
        ([torch.zeros(3)], r"could not be read \(TypeError\); give "),
        ({"layers.0.weight": Harmful()}, r"could not be read \(UnpicklingError\); give "),
        (None, r"could not be read \(UnpicklingError\); give "),
    ],
)
def test_a_file_that_is_not_the_network_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: object, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    file = Path("head.pth")
    if content is None:
        file.write_bytes(b"no network")
    else:
        torch.save(content, file)
    with pytest.raises(UserError, match=message) as error:
        load_head(file, width=8)
    assert str(error.value).endswith(".")
    assert "\n" not in str(error.value)
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("aesthetic", {"weights": "nowhere.pth"}, "aesthetic.weights is 'nowhere.pth', which is not a file; give "),
        ("aesthetic", {"weights": "a/b"}, "whose revision is missing; give aesthetic.revision, a commit "),
        ("aesthetic@x", {"revision": "y"}, "aesthetic.revision is 'y'; give the revision once."),
        ("aesthetic@x", {"weights": __file__}, "aesthetic.weights is a local file, which has none; leave it out."),
    ],
)
def test_where_the_aesthetic_weights_come_from_is_checked(name: str, settings: dict[str, str], message: str) -> None:
    with pytest.raises(UserError) as error:
        check_reward(name, RewardSettings(aesthetic=AestheticSettings(**settings)))
    assert message in str(error.value)


def test_a_revision_is_given_in_the_name_or_in_the_settings() -> None:
    check_reward("aesthetic")
    check_reward("0.5*aesthetic@main + aesthetic", RewardSettings(aesthetic=AestheticSettings(revision="main")))
    check_reward("aesthetic@v1", RewardSettings(aesthetic=AestheticSettings(weights="some/repository")))
    check_reward(f"hpsv2@{REVISION}")
    check_reward("hpsv2", RewardSettings(hpsv2=HPSv2Settings(revision=REVISION)))


def test_weights_that_cannot_be_downloaded_are_one_sentence() -> None:
    """The tests have no hub."""
    with pytest.raises(UserError, match=rf"at revision {REVISION} could not be downloaded: [^\n]*\.$"):
        load_reward(f"aesthetic@{REVISION}")
    with pytest.raises(UserError, match=r"^reward hpsv2 could not be loaded: "):
        load_reward(f"hpsv2@{REVISION}")


def test_hpsv2_is_the_cosine_of_its_model() -> None:
    """`hpsv2/img_score.py` multiplies unit vectors, and nothing else."""
    reward = load_reward("hpsv2", RewardSettings(hpsv2=HPSv2Settings(model=CLIP)))
    assert isinstance(reward, HPSv2)
    assert not isinstance(reward, CLIPScore)
    scores, cosines = reward(noise(), PROMPTS), CLIPScore(CLIP)(noise(), PROMPTS)
    assert isinstance(scores, Tensor)
    assert torch.equal(scores, cosines)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "nowhere"}, "hpsv2.model is 'nowhere', which is not a directory; give "),
        ({"model": CLIP, "revision": "x"}, "hpsv2.revision is 'x' but hpsv2.model is a local directory"),
    ],
)
def test_where_hpsv2_comes_from_is_checked(changes: dict[str, str], message: str) -> None:
    with pytest.raises(UserError) as error:
        check_reward("hpsv2", RewardSettings(hpsv2=HPSv2Settings(**changes)))
    assert message in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize(("spread", "offset"), [(1.0, 5.0), (0.05, 0.27)])
def test_a_run_trains_on_scores_with_an_offset(
    tmp_path: Path, small_run: Callable[..., Run], prompts_file: Path, width: int, spread: float, offset: float
) -> None:
    """Scores around 5, as those of aesthetic, and around 0.27 with a small spread, as those of hpsv2."""
    torch.save(head(width, spread=spread, offset=offset), tmp_path / "head.pth")
    own = AestheticSettings(weights=str(tmp_path / "head.pth"), clip=CLIP)
    run = small_run(reward="aesthetic", aesthetic=own, prompts=str(prompts_file), num_rounds=1)
    folder = b2diffurl.train(replace(run, judge="none"), output=tmp_path / "run")
    line = json.loads((folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert abs(line["reward/mean"] - offset) < 0.3
    assert 0 < line["reward/std"] < 0.3
    assert line["selection/num_trajectories"] > 0
    assert 'weights = "' in (folder / "run.toml").read_text(encoding="utf-8")
