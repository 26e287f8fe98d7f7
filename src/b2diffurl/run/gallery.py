"""What a run stores so that a reader can see it: the n x n grid of one prompt, scores of the samples, branch groups.

    samples/round_00000/grid.png      n x n images of the first prompt, before training; in the last round after it
    samples/round_00000/scores.json   reward of each sample image, and what the judge decides on it
    samples/round_00001/groups.png    the first branch groups of a round: a row per group, a column per branch
    samples/round_00001/groups.json   their prompts, rewards and selected branches

Images in a sheet are at most 96 pixels per side, so that the files stay small.
"""

import io
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from PIL import Image

from b2diffurl.errors import UserError
from b2diffurl.run import files, records

THUMBNAIL_SIDE_PX = 96
_GRID, _SCORES, _SHEET, _GROUPS = "grid.png", "scores.json", "groups.png", "groups.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleScores:
    """Scores of the sample images of a round.

    Attributes:
        rewards: one per image.
        judged: what the judge gives each image, by metric.
    """

    rewards: list[float]
    judged: dict[str, list[float]] = field(default_factory=dict[str, list[float]])


@dataclass(frozen=True, kw_only=True, slots=True)
class BranchGroup:
    """One branch group of a round.

    Attributes:
        prompt: its prompt.
        rewards: one per branch.
        selected: the branches that were trained on.
    """

    prompt: str
    rewards: list[float]
    selected: list[int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Gallery:
    """The images and scores that were stored of a run, by round; round 0 is before training.

    Attributes:
        grids: the n x n grid of one prompt.
        scores: scores of the sample images.
        groups: branch groups, with the sheet of their images.
    """

    grids: dict[int, Path] = field(default_factory=dict[int, Path])
    scores: dict[int, SampleScores] = field(default_factory=dict[int, SampleScores])
    groups: dict[int, tuple[Path, list[BranchGroup]]] = field(default_factory=dict[int, tuple[Path, list[BranchGroup]]])


def write_grid(samples: Path, images: Sequence[Image.Image], *, side: int, round_number: int) -> None:
    """Write the n x n grid of one prompt.

    Args:
        samples: the folder samples/ of the run.
        images: n * n images of equal size.
        side: n.
        round_number: the round; 0 before training.
    """
    _write_image(_folder(samples, round_number) / _GRID, sheet(images, num_columns=side))


def write_scores(samples: Path, scores: SampleScores, *, round_number: int) -> None:
    """Write the scores of a round's sample images."""
    files.write_text(_folder(samples, round_number) / _SCORES, json.dumps(asdict(scores)))


def write_groups(
    samples: Path, groups: Sequence[BranchGroup], images: Sequence[Image.Image], *, round_number: int
) -> None:
    """Write branch groups of a round.

    Args:
        samples: the folder samples/ of the run.
        groups: G groups of K branches.
        images: G * K images of equal size, group by group.
        round_number: the round.
    """
    folder = _folder(samples, round_number)
    _write_image(folder / _SHEET, sheet(images, num_columns=len(groups[0].rewards)))
    files.write_text(folder / _GROUPS, json.dumps([asdict(group) for group in groups]))


def read_gallery(samples: Path) -> Gallery:
    """Read what is stored so far.

    Raises:
        UserError: a file cannot be parsed.
    """
    gallery = Gallery()
    for folder in sorted(samples.glob("round_*")):
        match = re.fullmatch(r"round_(\d+)", folder.name)
        if not match:
            continue
        number = int(match[1])
        if (folder / _GRID).is_file():
            gallery.grids[number] = folder / _GRID
        scores = records.read_object(folder / _SCORES)
        if scores is not None:
            gallery.scores[number] = _parse(SampleScores, scores, folder / _SCORES)
        if (folder / _SHEET).is_file() and (folder / _GROUPS).is_file():
            content = records.read_json_list(folder / _GROUPS)
            gallery.groups[number] = folder / _SHEET, [_parse(BranchGroup, each, folder / _GROUPS) for each in content]
    return gallery


def sheet(images: Sequence[Image.Image], *, num_columns: int) -> Image.Image:
    """Arrange images of equal size row by row without a gap, each at most `THUMBNAIL_SIDE_PX` pixels per side."""
    small = [image.copy() for image in images]
    for image in small:
        image.thumbnail((THUMBNAIL_SIDE_PX, THUMBNAIL_SIDE_PX))
    width, height = small[0].size
    whole = Image.new("RGB", (width * num_columns, height * -(-len(small) // num_columns)), "white")
    for index, image in enumerate(small):
        whole.paste(image, (index % num_columns * width, index // num_columns * height))
    return whole


def tiles(whole: Image.Image, *, num_columns: int, num_rows: int) -> list[Image.Image]:
    """Cut a sheet into its images, row by row."""
    width, height = whole.width // num_columns, whole.height // num_rows
    corners = [(column * width, row * height) for row in range(num_rows) for column in range(num_columns)]
    return [whole.crop((x, y, x + width, y + height)) for x, y in corners]


def _folder(samples: Path, round_number: int) -> Path:
    folder = samples / f"round_{round_number:05d}"
    files.make_directory(folder)
    return folder


def _write_image(path: Path, image: Image.Image) -> None:
    content = io.BytesIO()
    image.save(content, format="PNG", optimize=True)
    files.write_bytes(path, content.getvalue())


def _parse(cls: Any, content: Any, path: Path) -> Any:
    """Make a record from a JSON object, or refuse it."""
    try:
        return cls(**cast("dict[str, Any]", content))
    except TypeError as error:
        raise UserError(f"{path} has unknown or missing keys; remove it, or restore it from a copy.") from error
