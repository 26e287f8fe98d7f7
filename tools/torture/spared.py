"""Work that the cases do not repeat, since it writes no file of its own kind: rendering plots and reading the model.

Plots take half of the time of a tiny run. Their files are still written, with constant content. The model is read once,
before the cases are forked; a process that reads it a second time reads it from the disk.
"""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from b2diffurl.models import Memory, ModelSource, text_to_image
from tools.torture.world import World

_SVG = '<svg viewBox="0 0 1 1"></svg>'


def spare_time() -> None:
    """Let every figure be saved as a constant in this process and in those forked from it."""

    def savefig(self: Figure, fname: Any, *, transparent: bool | None = None, **_: Any) -> None:  # noqa: ARG001
        if isinstance(fname, str | Path):
            Path(fname).write_bytes(b"plot")
        else:
            fname.write(_SVG)

    Figure.savefig = savefig


def preload(world: World) -> None:
    """Read the model; each process that is forked from this one uses it for its first run."""
    read = text_to_image.load_components
    waiting = [read(ModelSource(str(world.model)), device="cpu", memory=Memory())]

    def load_components(source: ModelSource | str, *, device: Any, memory: Memory) -> Any:
        is_ours = ModelSource.of(source).name == str(world.model) and memory == Memory() and str(device) == "cpu"
        return waiting.pop() if is_ours and waiting else read(source, device=device, memory=memory)

    text_to_image.load_components = load_components
