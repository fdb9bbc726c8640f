"""End a command that is stopped, or that a plugin tries to end, with one line and an exit status."""

from __future__ import annotations

import shlex
import sys
from typing import Any

from typer.core import TyperGroup

from benchmark.errors import INTERRUPTED, TERMINATED, masked
from benchmark.utils.guard import refused
from benchmark.utils.signals import Terminated, no_way_out


class Stoppable(TyperGroup):
    """Commands that end with one line and the signal's exit status when stopped, also during imports."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; an exception by which a plugin tries to end it becomes an ordinary error."""
        try:
            with no_way_out():
                return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            raise SystemExit(stopped(stop)) from None
        except Exception:
            raise
        except BaseException as error:
            raise refused(error) from error


def stopped(stop: KeyboardInterrupt) -> int:
    """Print that finished work is kept and how to resume; returns the exit status."""
    command = shlex.join(["reliquant", *(masked(word, word) for word in sys.argv[1:])])
    print(f"stopped; what is finished is kept. Go on with: {command}", file=sys.stderr)
    return TERMINATED if isinstance(stop, Terminated) else INTERRUPTED
