"""Progress of long phases: bars on stderr in a terminal, one line per phase elsewhere, silence on request."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

Advance = Callable[[int], None]


class Progress(Protocol):
    """What a long function is given to say how far it is."""

    def phase(self, title: str, total: int) -> AbstractContextManager[Advance]:
        """A phase of `total` steps; call the yielded function with the number of steps done."""

    def message(self, text: str) -> None:
        """One line for the reader."""


class Silent:
    """Says nothing."""

    @contextmanager
    def phase(self, title: str, total: int) -> Iterator[Advance]:
        """A phase nobody watches."""
        yield lambda _: None

    def message(self, text: str) -> None:
        """Nobody listens."""


class Lines:
    """One line at the end of each phase that took longer than a second; for logs and CI."""

    @contextmanager
    def phase(self, title: str, total: int) -> Iterator[Advance]:
        """A phase that is reported when it is over."""
        start, done = time.monotonic(), 0

        def advance(steps: int) -> None:
            nonlocal done
            done += steps

        yield advance
        seconds = time.monotonic() - start
        if seconds > 1:
            self.message(f"{title}: {done} in {seconds:.1f} s ({done / seconds:.0f}/s)")

    def message(self, text: str) -> None:
        """Print to stderr."""
        print(text, file=sys.stderr, flush=True)


class Terminal:
    """Bars with rate and time left. Use as a context manager around the whole run."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bars: Bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
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
    def phase(self, title: str, total: int) -> Iterator[Advance]:
        """A phase with a bar, taken away when it is over."""
        bar = self._bars.add_task(title, total=total, rate="")
        start, done = time.monotonic(), 0

        def advance(steps: int) -> None:
            nonlocal done
            done += steps
            rate = f"{done / max(time.monotonic() - start, 1e-9):.0f}/s"
            self._bars.update(bar, advance=steps, rate=rate)

        try:
            yield advance
        finally:
            self._bars.remove_task(bar)

    def message(self, text: str) -> None:
        """A line above the bars."""
        self._bars.console.print(text, highlight=False)


@contextmanager
def open_progress(quiet: bool) -> Iterator[Progress]:
    """Bars in a terminal, lines elsewhere, nothing when quiet."""
    if quiet:
        yield Silent()
    elif sys.stderr.isatty():
        with Terminal() as terminal:
            yield terminal
    else:
        yield Lines()
