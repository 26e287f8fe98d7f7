"""Progress in a notebook: one display that is updated, without ipywidgets."""

import sys
import time
from collections.abc import Callable
from html import escape
from importlib import import_module
from typing import Any

from b2diffurl.reporting.round_line import round_heading, round_line
from b2diffurl.reporting.text import format_duration
from b2diffurl.training.callbacks import Metrics

_SECONDS_BETWEEN_UPDATES = 0.5
_NUM_SHOWN_ROUNDS = 12


def is_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell: Any = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")


def notebook_display() -> Callable[[str], None]:
    """Return a function that shows HTML in the present cell, in the place of what it showed before."""
    display = import_module("IPython.display")
    handles: list[Any] = []

    def show(html: str) -> None:
        content = display.HTML(html)
        if handles:
            handles[0].update(content)
        else:
            handles.append(display.display(content, display_id=True))

    return show


class NotebookObserver:
    """Show a run or a phase: a bar of rounds, a bar of the phase, and a line per round.

    Args:
        show: shows HTML, in the place of what it showed before.
        num_rounds: number of rounds of the run; 0 to show one phase only.
        clock: returns seconds.
    """

    def __init__(
        self, show: Callable[[str], None], *, num_rounds: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._show = show
        self._num_rounds = num_rounds
        self._clock = clock
        self._start = self._last = clock()
        self._phase, self._done, self._total = "", 0, 0
        self._rounds_done = 0
        self._lines: list[str] = []

    def on_phase(self, name: str, *, total: int) -> None:
        """Start a new bar."""
        self._phase, self._done, self._total = name, 0, total
        self._update()

    def on_progress(self, num: int) -> None:
        """Advance the bar."""
        self._done = min(self._done + num, self._total)
        if self._clock() - self._last >= _SECONDS_BETWEEN_UPDATES:
            self._update()

    def on_round(self, metrics: Metrics) -> None:
        """Show the line of the round."""
        self._rounds_done = int(metrics["round"] or 0)
        self._lines.append(round_line(metrics))
        self._update()

    def on_message(self, message: str) -> None:
        """Show a sentence."""
        self._lines.append(message)
        self._update()

    def close(self) -> None:
        """Show the final state, without the bar of the phase."""
        self._phase = ""
        self._update()

    def _update(self) -> None:
        self._last = self._clock()
        parts: list[str] = []
        if self._num_rounds:
            parts.append(_bar("rounds", self._rounds_done, self._num_rounds))
        if self._phase:
            parts.append(_bar(self._phase, self._done, self._total))
        parts.append(f"<small>{format_duration(self._last - self._start)}</small>")
        if self._lines:
            lines = [round_heading(), *self._lines[-_NUM_SHOWN_ROUNDS:]]
            parts.append(f'<pre style="line-height: 1.3; margin: 4px 0">{escape(chr(10).join(lines))}</pre>')
        self._show("<div>" + "".join(parts) + "</div>")


def _bar(name: str, done: int, total: int) -> str:
    return f'<div><progress value="{done}" max="{max(total, 1)}"></progress> {escape(name)} {done}/{total}</div>'
