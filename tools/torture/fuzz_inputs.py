"""Hypothesis strategies: run files, flags, prompt files, model files, reward outputs and requests."""

import base64
import dataclasses
import io
import json
import math
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import tomli_w
import torch
from hypothesis import strategies as st
from PIL import Image

from b2diffurl.algorithm.objectives import AnyObjective
from b2diffurl.algorithm.strategies import AnyAdvantage, AnySchedule, AnySelection

Choose = Callable[[st.SearchStrategy[Any]], Any]
Tables = dict[str, Any]

WORDS = (
    "", " ", "full", "backward", "emoji", "clip:emoji", "clip", "jpeg-size:compressible", "auto", "none", "custom",
    "template1-train", "0", "1.5", "true", "nan", "x.py:f", "a:b", "../x", "/", "~", "\0", "é", "\u2028", "{}", "[]",
    "float16", "even", "sampler", "seed", "2 * clip:emoji", "clip +", "remote:http://127.0.0.1:1", "remote:x",
)  # fmt: skip
_INTEGERS = st.integers(-2, 12) | st.sampled_from([2**31, 2**63 - 1, 2**63, -(2**63), 10**18, 10**30])
SCALARS: st.SearchStrategy[Any] = (
    st.booleans() | _INTEGERS | st.floats() | st.floats(0, 2) | st.sampled_from(WORDS) | st.text(max_size=8)
)
VALUES: st.SearchStrategy[Any] = SCALARS | st.lists(SCALARS, max_size=4) | st.dictionaries(st.text(max_size=4), SCALARS)


def components() -> dict[str, list[Tables]]:
    """Return the built-in components of a run with their defaults, by the name of their table."""
    unions = {"schedule": AnySchedule, "advantage": AnyAdvantage, "selection": AnySelection, "objective": AnyObjective}
    tables: dict[str, list[Tables]] = {}
    for name, union in unions.items():
        of_fields = [
            {field.name: field.default for field in dataclasses.fields(cls) if field.default is not dataclasses.MISSING}
            for cls in get_args(union)
        ]
        tables[name] = [table for table in of_fields if table["use"] != "custom"]
    return tables


COMPONENTS = components()


def leaves(tables: Tables, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return the paths of all values that are not tables."""
    paths: list[tuple[str, ...]] = []
    for name, value in tables.items():
        paths += leaves(value, (*prefix, name)) if isinstance(value, dict) else [(*prefix, name)]
    return paths


@st.composite
def run_files(choose: Choose, tables: Tables) -> bytes:
    """Run files: a valid one with up to three changed values, or with up to three changed bytes."""
    if choose(st.integers(0, 3)) == 0:
        return choose(changed_bytes(tomli_w.dumps(tables).encode()))
    tables = json.loads(json.dumps(tables))
    for _ in range(choose(st.integers(1, 3))):
        _change(choose, tables)
    try:
        return tomli_w.dumps(tables).encode()
    except (TypeError, ValueError, UnicodeEncodeError):  # some values do not exist in TOML
        return json.dumps(tables).encode()


def _change(choose: Choose, tables: Tables) -> None:
    kind = choose(st.sampled_from(("value", "value", "value", "component", "unknown", "delete")))
    *parents, name = choose(st.sampled_from(leaves(tables) or [("seed",)]))
    table = tables
    for parent in parents:
        table = table[parent]
    if kind == "value":
        table[name] = choose(VALUES)
    elif kind == "component":
        place = choose(st.sampled_from(sorted(COMPONENTS)))
        tables[place] = dict(choose(st.sampled_from(COMPONENTS[place])))
    elif kind == "unknown":
        table[choose(st.text(max_size=6) | st.sampled_from(("use", "name", "options", name + "s")))] = choose(VALUES)
    else:
        table.pop(name, None)


@st.composite
def changed_bytes(choose: Choose, content: bytes) -> bytes:
    """Contents with up to three bytes or ranges inserted, removed or replaced."""
    for _ in range(choose(st.integers(1, 3))):
        start = choose(st.integers(0, len(content)))
        length = choose(st.sampled_from((0, 1, 4, 100, len(content))))
        new = choose(st.binary(max_size=4) | st.just(bytes(length)))
        content = content[:start] + new + content[start + length :]
    return content


@st.composite
def flags(choose: Choose, tables: Tables) -> list[str]:
    """Flags of `train`: existing and unknown ones with values of every kind, and components."""
    words: list[str] = []
    for _ in range(choose(st.integers(1, 3))):
        kind = choose(st.sampled_from(("flag", "flag", "flag", "component", "junk")))
        if kind == "flag":
            name = ".".join(choose(st.sampled_from(leaves(tables)))).replace("_", "-")
            values = choose(st.lists(SCALARS, max_size=2) | st.just(["1"]) | st.just(["0.5"]))
            words += [f"--{name}", *(str(value).replace("\0", "") for value in values)]
        elif kind == "component":
            place = choose(st.sampled_from(sorted(COMPONENTS)))
            words.append(f"{place}:{choose(st.sampled_from(COMPONENTS[place]))['use']}")
        else:
            words.append(choose(st.text(max_size=8) | st.sampled_from(WORDS)).replace("\0", ""))
    return words


_PROMPT = st.sampled_from(("a bear riding a bike", "a cat playing chess", "# no prompt", "", " ")) | st.text(
    max_size=20
)
_ITEM = _PROMPT | st.fixed_dictionaries({"prompt": _PROMPT}, optional={"weight": SCALARS}) | SCALARS
_JSON = st.recursive(SCALARS | st.none(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_PROMPT, inner))


@st.composite
def prompt_files(choose: Choose) -> tuple[str, bytes]:
    """Prompt files: suffix and content."""
    suffix = choose(st.sampled_from((".txt", ".json", ".toml", "", ".TXT")))
    kind = choose(st.sampled_from(("lines", "lines", "json", "json", "toml", "any json", "bytes")))
    if kind == "bytes":
        return suffix, choose(st.binary(max_size=80))
    if kind == "any json":
        return suffix, json.dumps(choose(_JSON)).encode()
    items = choose(st.lists(_ITEM if kind != "lines" else _PROMPT, max_size=5))
    if kind == "lines":
        newline, encoding = choose(st.sampled_from(("\n", "\r\n", "\r"))), choose(st.sampled_from(("utf-8", "utf-16")))
        content = newline.join(items).encode(encoding, "surrogatepass" if encoding == "utf-16" else "replace")
    elif kind == "json":
        content = json.dumps(items).encode()
    else:
        try:
            content = tomli_w.dumps({"prompts": items}).encode("utf-8", "replace")
        except (TypeError, ValueError):
            content = b"prompts = 1"
    if choose(st.integers(0, 4)) == 0:
        content = choose(changed_bytes(content))
    return suffix, choose(st.sampled_from((b"", b"\xef\xbb\xbf"))) + content


_DTYPES = (
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.complex64,
)  # fmt: skip
_NUMBERS = st.floats() | st.floats(-1, 1) | st.integers(-5, 5) | st.booleans() | st.none() | st.text(max_size=2)


@st.composite
def reward_outputs(choose: Choose, num: int) -> Any:
    """Outputs of a reward for `num` images, or an exception that it raises."""
    size = choose(st.sampled_from((num, num, num, num - 1, 0, num + 1)))
    kind = choose(st.sampled_from(("tensor", "array", "list", "list", "numbers", "other", "raise")))
    shape = choose(st.sampled_from(((size,), (size,), (size,), (size, 1), (), (1, size))))
    if kind == "tensor":
        output: Any = (torch.rand(shape) * 3).to(choose(st.sampled_from(_DTYPES)))
    elif kind == "array":
        output = np.ones(shape, dtype=choose(st.sampled_from(("f4", "f8", "i2", "u1", "?", "c8", "O", "U3", "M8[s]"))))
    elif kind == "list":
        output = choose(st.lists(_NUMBERS, min_size=size, max_size=size))
    elif kind == "numbers":
        output = choose(st.lists(st.floats(-10, 10), min_size=num, max_size=num))
    elif kind == "other":
        output = choose(_JSON | st.just({1, 2}) | st.just(iter([1.0] * num)) | st.just(object()) | st.just(len))
    else:
        kinds = (
            ValueError("a\nb"),
            KeyError(),
            RuntimeError("x" * 500),
            MemoryError(),
            SystemExit(0),
            OSError(2, "no"),
        )
        return choose(st.sampled_from(kinds))
    info = choose(st.none() | st.dictionaries(st.text(max_size=4), st.lists(_JSON, min_size=num, max_size=num) | _JSON))
    return output if info is None else (output, info)


def _png(mode: str, size: tuple[int, int], image_format: str) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, 100 if mode in ("L", "I;16") else None).save(buffer, format=image_format)
    return buffer.getvalue()


IMAGES = tuple(
    _png(mode, size, image_format)
    for mode, size, image_format in (
        ("RGB", (8, 8), "PNG"), ("RGB", (8, 8), "JPEG"), ("RGB", (9, 8), "PNG"), ("L", (8, 8), "PNG"),
        ("RGBA", (8, 8), "PNG"), ("I;16", (8, 8), "PNG"), ("RGB", (200, 200), "PNG"), ("RGB", (8, 8), "GIF"),
        ("P", (8, 8), "PNG"),
    )
)  # fmt: skip


@st.composite
def requests(choose: Choose) -> tuple[str, str, list[tuple[bytes, bytes]], bytes]:
    """Requests to a reward server, every other one with a valid head: method, path, headers and body."""
    if choose(st.booleans()):
        return "POST", "/v1/score", [(b"authorization", b"Bearer secret")], choose(_bodies())
    method = choose(st.sampled_from(("POST",) * 6 + ("GET", "PUT", "X")))
    path = choose(st.sampled_from(("/v1/score",) * 8 + ("/health", "/", "/docs", "/v1/score/../health", "/\0")))
    token = choose(st.sampled_from((b"Bearer secret",) * 6 + (b"Bearer wrong", b"secret", b"\xff", b"")))
    headers = [(b"authorization", token), (b"content-type", choose(st.sampled_from((b"application/json", b"text/x"))))]
    return method, path, headers[choose(st.sampled_from((0, 0, 0, 0, 1))) :], choose(_bodies())


@st.composite
def _bodies(choose: Choose) -> bytes:
    kind = choose(st.sampled_from(("request",) * 5 + ("json", "bytes", "deep")))
    if kind == "bytes":
        return choose(st.binary(max_size=60))
    if kind == "deep":
        return b"[" * choose(st.sampled_from((10, 5000))) + b"]"
    if kind == "json":
        return json.dumps(choose(_JSON)).encode()
    images = choose(st.lists(st.sampled_from(IMAGES[:2]) | st.sampled_from(IMAGES), max_size=5))
    if choose(st.integers(0, 2)) == 0:
        images = [choose(changed_bytes(image)) for image in images]
    body: Tables = {
        "images": [base64.b64encode(image).decode() for image in images],
        "prompts": ["a cat"] * len(images),
    }
    if choose(st.integers(0, 2)) == 0:
        body[choose(st.sampled_from(("images", "prompts", "metadata", "x")))] = choose(_JSON)
    content = json.dumps(body).encode()
    return choose(changed_bytes(content)) if choose(st.integers(0, 5)) == 0 else content


@st.composite
def model_changes(choose: Choose, files: list[tuple[str, bytes]]) -> tuple[str, bytes]:
    """Changes of a model folder: path of a file and its new content."""
    name, content = choose(st.sampled_from(files))
    if name.endswith(".json") and choose(st.booleans()):
        tables = json.loads(content)
        if isinstance(tables, dict):
            for _ in range(choose(st.integers(1, 2))):
                _change_json(choose, tables)
            return name, json.dumps(tables).encode()
    return name, choose(changed_bytes(content) | st.just(b"") | st.just(bytes(len(content))))


def _change_json(choose: Choose, tables: Tables) -> None:
    paths = [path for path in leaves(tables) if "." not in "".join(path)]
    if not paths:
        return
    *parents, name = choose(st.sampled_from(paths))
    table = tables
    for parent in parents:
        table = table[parent]
    if choose(st.booleans()):
        table[name] = choose(st.integers(-2, 40) | st.floats(-2, 2) | st.sampled_from(WORDS) | st.none())
    else:
        table.pop(name)


REWARD_BODIES = (
    "x", "x.double()", "x.numpy()", "x.tolist()", "tuple(x)", "(x, {'a': prompts})", "x.half()", "x.bfloat16()",
    "(x > 0.5)", "(x * 100).int()", "x * 0", "x * 1e30", "x * 1e-12", "-x", "x.requires_grad_()", "x.numpy()[::-1]",
    "x + float('nan')", "x[:1]", "{1: 2}", "None", "x[None]", "x.to(torch.complex64)", "images",
)  # fmt: skip
REWARD_FILE = """\
import torch


def score(images, prompts):
    x = images.mean(dim=(1, 2, 3))
    return {body}
"""


_NESTED = (
    "schedule", "advantage", "selection", "objective", "optimization", "trust_region", "lora", "logging", "memory",
    "sampler", "rollout", "collapse",
)  # fmt: skip


@st.composite
def small_runs(choose: Choose, tables: Tables) -> tuple[Tables, str]:
    """One-round runs that take a second, most of them valid, and the body of their reward."""
    tables = json.loads(json.dumps(tables))
    branches = choose(st.sampled_from((1, 2, 4, 4)))
    num_steps = choose(st.integers(1, 3))
    tables |= {
        "num_rounds": 1,
        "seed": choose(st.integers(0, 5) | st.sampled_from((2**63 - 1, 2**32))),
        "reward_queries_per_round": branches * choose(st.integers(1, 8 // branches)),
        "judge": choose(st.sampled_from(("reward", "none", "auto"))),
        "held_out_fraction": choose(st.sampled_from((0.0, 0.0, 0.5))),
    }
    for name, kinds in COMPONENTS.items():
        tables[name] = dict(choose(st.sampled_from(kinds)))
    if "tau_first" in tables["schedule"]:
        tables["schedule"]["tau_first"] = choose(st.integers(1, num_steps))
    if tables["schedule"]["use"] == "table":
        tables["schedule"]["rows"] = [[1, choose(st.integers(1, num_steps))]]
    for _ in range(choose(st.integers(0, 3))):
        *parents, name = choose(st.sampled_from([path for path in leaves(tables) if path[0] in _NESTED]))
        table = tables[parents[0]]
        table[name] = _similar(choose, table[name])
    tables["sampler"] |= {"num_inference_steps": num_steps, "eta": choose(st.sampled_from((1.0, 0.5, 0.01)))}
    tables["rollout"] |= {"num_branches": branches}
    if tables["objective"]["use"] in ("policy-gradient", "dpok"):
        tables["optimization"] |= {"num_inner_epochs": 1, "num_minibatches": 1}
    _choose_words(choose, tables)
    return tables, choose(st.just("x") | st.sampled_from(REWARD_BODIES))


def _choose_words(choose: Choose, tables: Tables) -> None:
    tables["optimization"]["lr_schedule"] = choose(st.sampled_from(("constant", "linear", "cosine")))
    tables["memory"]["base_dtype"] = choose(st.sampled_from(("float32", "float32", "float32", "bfloat16", "float16")))
    tables["rollout"]["log_prob_reduction"] = choose(st.sampled_from(("mean", "sum")))


def _similar(choose: Choose, value: Any) -> Any:
    """Return another value of the same type; texts and lists stay."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return choose(st.integers(1, 4))
    if isinstance(value, float):
        return choose(st.sampled_from((value / 2, value * 2, value + 0.1))) if math.isfinite(value) else 0.1
    return value
