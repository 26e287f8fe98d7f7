"""The paper's lists, users' files, and the prompts of a round."""

import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b2diffurl.algorithm.randomness import held_out_rng, prompt_rng
from b2diffurl.errors import UserError
from b2diffurl.prompts.lists import load_prompt_list, load_prompts, named_lists, sample_prompts, split_prompts

LETTERS = tuple("abcdefg")


def write(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


TEMPLATES = ["emoji-template2", "emoji-template3", "template1", "template2", "template3"]


def test_each_template_has_three_lists() -> None:
    assert named_lists() == [f"{template}-{split}" for template in TEMPLATES for split in ("all", "test", "train")]


@pytest.mark.parametrize("template", TEMPLATES)
def test_all_is_train_and_test_and_they_share_no_prompt(template: str) -> None:
    both = load_prompts(f"{template}-train") + load_prompts(f"{template}-test")
    assert load_prompts(f"{template}-all") == both
    assert len(set(both)) == len(both)
    assert all(prompt == prompt.strip() and prompt for prompt in both)


def test_template_1_crosses_45_animals_with_3_activities() -> None:
    """Each animal once in training, so that its other two activities are held out."""
    train, held_out = load_prompts("template1-train"), load_prompts("template1-test")
    assert (len(train), len(held_out)) == (45, 90)
    activities = ("riding a bike", "playing chess", "washing dishes")
    animals = Counter(prompt.split(" ", maxsplit=2)[1] for prompt in train + held_out)
    assert len(animals) == 45
    assert set(animals.values()) == {3}
    assert all(prompt.endswith(activities) for prompt in train + held_out)


def test_a_file_has_one_prompt_a_line(tmp_path: Path) -> None:
    source = write(tmp_path / "mine.txt", "# heading\n a cat \r\n\n\ta bear, \u732b\n# end\n#\n".encode())
    assert load_prompts(source) == ("a cat", "a bear, \u732b")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no prompt; write one prompt per line."),
        (b"\n# nothing\n", "holds no prompt; write one prompt per line."),
        (b"a cat\na dog\na cat \n", "holds 'a cat' more than once; keep each prompt once."),
        (b"\xff\xfe", "is not UTF-8 text; save it as UTF-8, one prompt per line."),
    ],
)
def test_an_invalid_file_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    source = write(tmp_path / "mine.txt", content)
    with pytest.raises(UserError) as refused:
        load_prompts(source)
    assert str(refused.value) == f"prompts file {source} {message}"


@pytest.mark.parametrize("source", ["template1", "template9-train", "nowhere.txt", ".", ""])
def test_what_is_neither_a_list_nor_a_file_is_refused_and_the_lists_are_named(source: str) -> None:
    with pytest.raises(UserError) as refused:
        load_prompts(source)
    assert str(refused.value).startswith(f"prompts is {source!r}, which is neither a file nor a named list; ")
    assert "template1-train" in str(refused.value)


@given(num=st.integers(1, 40), seed=st.integers(0, 2**64), round_number=st.integers(1, 1000))
def test_no_prompt_is_chosen_twice_more_than_another(num: int, seed: int, round_number: int) -> None:
    chosen = sample_prompts(LETTERS, num, rng=prompt_rng(seed, round_number))
    assert len(chosen) == num
    times = [chosen.count(letter) for letter in LETTERS]
    assert max(times) - min(times) <= 1


def test_the_choice_depends_on_seed_and_round_alone() -> None:
    choices = {
        (seed, round_number): sample_prompts(LETTERS, 7, rng=prompt_rng(seed, round_number))
        for seed in (0, 1)
        for round_number in (1, 2, 3)
    }
    assert choices[0, 2] == sample_prompts(LETTERS, 7, rng=prompt_rng(0, 2))
    assert len(set(choices.values())) == 6


def test_every_pass_has_its_own_order() -> None:
    chosen = sample_prompts(LETTERS, 14, rng=prompt_rng(0, 1))
    assert chosen[:7] != chosen[7:]


JSON = b'["a cat", {"prompt": " two bears ", "count": 2, "tags": ["x"]}]'
TOML = b'prompts = ["a cat", { prompt = "two bears", count = 2, tags = ["x"] }]'


@pytest.mark.parametrize(("name", "content"), [("mine.json", JSON), ("mine.toml", TOML)])
def test_a_structured_file_has_metadata(name: str, content: bytes, tmp_path: Path) -> None:
    prompt_list = load_prompt_list(write(tmp_path / name, content))
    assert prompt_list.prompts == ("a cat", "two bears")
    metadata = {"count": 2, "tags": ["x"]}
    assert prompt_list.metadata_of(["two bears", "a cat", "two bears"]) == [metadata, {}, metadata]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("mine.json", b"[", "is not valid JSON: "),
        ("mine.toml", b"prompts = [", "is not valid TOML: "),
        ("mine.toml", b'other = ["a cat"]', "holds no prompt; "),
        ("mine.json", b"[1]", "holds 1, which is not a prompt; "),
        ("mine.json", b'[{"text": "a cat"}]', "which is not a prompt; "),
        ("mine.json", b'["a cat", {"prompt": "a cat", "count": 1}]', "holds 'a cat' more than once; "),
    ],
)
def test_an_invalid_structured_file_is_refused(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        load_prompt_list(write(tmp_path / name, content))
    assert message in str(refused.value)


@given(fraction=st.floats(0.15, 0.85), seed=st.integers(0, 50))
def test_a_fraction_is_held_out_and_no_prompt_is_lost(fraction: float, seed: int) -> None:
    train, held_out = split_prompts(LETTERS, held_out_fraction=fraction, rng=held_out_rng(seed))
    assert sorted(train + held_out) == list(LETTERS)
    assert len(held_out) == round(fraction * len(LETTERS)) > 0
    assert (train, held_out) == split_prompts(LETTERS, held_out_fraction=fraction, rng=held_out_rng(seed))


def test_the_random_split_is_the_one_of_earlier_versions() -> None:
    prompts = load_prompts("template1-train")
    _, held_out = split_prompts(prompts, held_out_fraction=0.1, rng=held_out_rng(3))
    assert held_out == (
        "a rabbit washing dishes",
        "a lion washing dishes",
        "a squirrel riding a bike",
        "a chicken playing chess",
    )


def test_another_list_is_held_out() -> None:
    train = load_prompts("template1-train")
    assert split_prompts(train, held_out_prompts="template1-test", rng=held_out_rng(0)) == (
        train,
        load_prompts("template1-test"),
    )
    assert split_prompts(train, rng=held_out_rng(0)) == (train, ())


@pytest.mark.parametrize("fraction", [1.0, 0.01, 0.99])
def test_a_fraction_that_leaves_one_side_empty_is_refused(fraction: float) -> None:
    with pytest.raises(UserError, match=rf"^held_out_fraction is {fraction}, which holds out [07] of 7 prompts; give "):
        split_prompts(LETTERS, held_out_fraction=fraction, rng=held_out_rng(0))


def test_held_out_prompts_are_not_trained_on() -> None:
    with pytest.raises(UserError, match=r"^held_out_prompts is 'template1-all', which shares 'a"):
        split_prompts(load_prompts("template1-train"), held_out_prompts="template1-all", rng=held_out_rng(0))


def test_a_missing_held_out_list_is_refused_by_the_name_of_its_setting() -> None:
    with pytest.raises(UserError, match=r"^held_out_prompts is '0\.2', which is neither a file nor a named list; "):
        split_prompts(LETTERS, held_out_prompts="0.2", rng=held_out_rng(0))


@pytest.mark.parametrize("name", ["p.txt", "p.json", "p.toml"])
def test_a_byte_order_mark_is_no_part_of_a_prompt(tmp_path: Path, name: str) -> None:
    text = {"p.txt": "# mine\na cat\na dog\n", "p.json": '["a cat", "a dog"]', "p.toml": 'prompts = ["a cat", "a dog"]'}
    (tmp_path / name).write_text(text[name], encoding="utf-8-sig")
    assert load_prompts(str(tmp_path / name)) == ("a cat", "a dog")


def test_lines_end_at_line_feeds_only(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a cat\u2028on a mat\na dog\n", encoding="utf-8")
    assert load_prompts(str(tmp_path / "p.txt")) == ("a cat\u2028on a mat", "a dog")


def test_a_long_list_is_read_in_linear_time(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("\n".join(f"prompt {i}" for i in range(50_000)), encoding="utf-8")
    started = time.perf_counter()
    assert len(load_prompts(str(tmp_path / "p.txt"))) == 50_000
    assert time.perf_counter() - started < 3  # the quadratic check took 26 s
