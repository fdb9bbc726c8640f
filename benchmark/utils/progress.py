"""Progress of long phases: bars on stderr in a terminal, a line per phase elsewhere, silence on request."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

Advance = Callable[[int], None]
BAR, SHORTEST = 16, 8
"""Characters: of a bar, and that a title gets at least."""

REDRAW = 0.25
"""Seconds between two drawings of the bars in a notebook."""

SHORT, EVERY = 1.0, 30.0
"""Seconds: phases below the first get no line; those that last get a line this often."""


class Progress(Protocol):
    """Interface through which long functions report progress."""

    def phase(self, title: str, total: int, unit: str = "") -> AbstractContextManager[Advance]:
        """A phase of `total` steps; call the yielded function with the number of steps done.

        Args:
            unit: "B" for bytes.
        """

    def message(self, text: str) -> None:
        """Show one line."""


class Silent:
    """Shows no progress."""

    @contextmanager
    def phase(self, title: str, total: int, unit: str = "") -> Iterator[Advance]:
        """A phase without output."""
        yield lambda _: None

    def message(self, text: str) -> None:
        """Show nothing."""


class Lines:
    """One line at the end of each phase that took longer than a second, and every half minute; for logs and CI."""

    @contextmanager
    def phase(self, title: str, total: int, unit: str = "") -> Iterator[Advance]:
        """A phase that is reported when it is over, and every half minute until then."""
        start, done = time.monotonic(), 0
        said = start

        def advance(steps: int) -> None:
            nonlocal done, said
            done += steps
            now = time.monotonic()
            if now - said >= EVERY and done < total:
                said, seconds = now, now - start
                left = duration((total - done) * seconds / done) if done else "unknown time"
                self.message(
                    f"{title}: {count(done, unit)} of {count(total, unit)}, {rate(done, seconds, unit)}, {left} left"
                )

        yield advance
        seconds = time.monotonic() - start
        if seconds > SHORT:
            self.message(f"{title}: {count(done, unit)} in {duration(seconds)} ({rate(done, seconds, unit)})")

    def message(self, text: str) -> None:
        """Print to stderr."""
        print(text, file=sys.stderr, flush=True)


class Terminal:
    """Bars with rate and time left. Use as a context manager around the whole run."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._bars: Bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=BAR),
            TextColumn("{task.fields[done]}"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )

    def __enter__(self) -> Terminal:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    @contextmanager
    def phase(self, title: str, total: int, unit: str = "") -> Iterator[Advance]:
        """A phase with a bar, which disappears at the end."""
        end = f"{count(total, unit)}/{count(total, unit)}"
        room = self._bars.console.width - BAR - len(end) - len("123.4 s each") - len("0:00:00") - 4
        bar = self._bars.add_task(shortened(title, room), total=total, rate="", done=f"0/{count(total, unit)}")
        start, done = time.monotonic(), 0

        def advance(steps: int) -> None:
            nonlocal done
            done += steps
            text = f"{count(done, unit)}/{count(total, unit)}"
            self._bars.update(bar, advance=steps, rate=rate(done, time.monotonic() - start, unit), done=text)

        try:
            yield advance
        finally:
            self._bars.remove_task(bar)

    def message(self, text: str) -> None:
        """A line above the bars."""
        self._bars.console.print(text, highlight=False, markup=False)


class Notebook(Terminal):
    """The bars as the output of a notebook's cell, drawn again a few times a second and removed at the end."""

    def __enter__(self) -> Notebook:
        from IPython import display as output

        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        warnings.filterwarnings("ignore", "IProgress not found")  # tqdm's, of a library that asks for widgets
        draw: Any = output.display
        self._handle: Any = draw(self._bars, display_id=True)
        self._drawn = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.update({"text/plain": ""}, raw=True)
        self._warnings.__exit__(None, None, None)

    @contextmanager
    def phase(self, title: str, total: int, unit: str = "") -> Iterator[Advance]:
        """A phase with a bar."""
        with super().phase(title, total, unit) as advance:
            self._draw()

            def drawing(steps: int) -> None:
                advance(steps)
                if time.monotonic() - self._drawn > REDRAW:
                    self._draw()

            yield drawing

    def message(self, text: str) -> None:
        """A line in the cell's output."""
        print(text)

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        self._handle.update(self._bars)


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook; imports no IPython."""
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None else None
    return shell is not None and shell.has_trait("kernel")


def shortened(title: str, room: int) -> str:
    """The title, or its beginning and end around a gap, in so many characters.

    >>> shortened("embed rtn-w4a8-channel-token-vision", 20)
    'embed rtn-…en-vision'
    """
    room = max(room, SHORTEST)
    if len(title) <= room:
        return title
    kept = room - 1
    return f"{title[: (kept + 1) // 2]}…{title[len(title) - kept // 2 :]}"


def rate(done: int, seconds: float, unit: str = "") -> str:
    """`120/s`, `3.4/s`, `8.0 s each`; `12.3 MB/s` for bytes."""
    if not done:
        return "none yet"
    each = max(seconds, 1e-9) / done
    if unit == "B":
        return f"{count(round(1 / each), unit)}/s"
    return f"{1 / each:.0f}/s" if each <= 0.1 else f"{1 / each:.1f}/s" if each <= 1 else f"{each:.1f} s each"


def count(number: int, unit: str = "") -> str:
    """`1,200`; `12.3 MB` for bytes."""
    if unit != "B":
        return f"{number:,}"
    power = min(max(0, (len(str(number)) - 1) // 3), 4)
    return f"{number / 1000**power:.{int(power > 0)}f} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def duration(seconds: float) -> str:
    """`12.3 s`, `4 min`, `2 h 10 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


_SHOWN: ContextVar[Progress] = ContextVar("progress")


def shown() -> Progress:
    """The progress that the command line has opened, for code far from it (downloads); silent if there is none."""
    return _SHOWN.get(Silent())


@contextmanager
def open_progress(quiet: bool) -> Iterator[Progress]:
    """Bars in a terminal and a notebook, lines elsewhere, nothing when quiet."""
    if quiet:
        with _showing(Silent()) as silent:
            yield silent
    elif in_notebook():
        with Notebook() as notebook, _showing(notebook):
            yield notebook
    elif sys.stderr.isatty():
        with Terminal() as terminal, _showing(terminal):
            yield terminal
    else:
        with _showing(Lines()) as lines:
            yield lines


@contextmanager
def _showing(progress: Progress) -> Iterator[Progress]:
    token = _SHOWN.set(progress)
    try:
        yield progress
    finally:
        _SHOWN.reset(token)
