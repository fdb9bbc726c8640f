"""How a command ends that is stopped, or that a plugin tries to end: with a sentence and an exit status."""

from __future__ import annotations

import shlex
import sys
from typing import Any

from typer.core import TyperGroup

from benchmark.errors import INTERRUPTED, TERMINATED, masked
from benchmark.utils.guard import refused
from benchmark.utils.signals import Terminated, no_way_out


class Stoppable(TyperGroup):
    """Commands that end with a sentence and the signal's exit status when they are stopped, imports included."""

    def invoke(self, ctx: Any) -> Any:
        """The command; what a plugin raises to end it is an error like any other."""
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
    """Say that what is finished is kept and how to go on; returns the exit status."""
    command = shlex.join(["reliquant", *map(masked, sys.argv[1:])])
    print(f"stopped; what is finished is kept. Go on with: {command}", file=sys.stderr)
    return TERMINATED if isinstance(stop, Terminated) else INTERRUPTED
