"""The command line: one module per command. Parsing and printing only."""

import sys

from benchmark.siblings import conflict


def main() -> None:
    """Entry point; where another distribution has overwritten files of ours, it ends before it imports them."""
    if (found := conflict()) is not None:
        print(f"reliquant: {'error' if found.fatal else 'warning'}: {found.line}", file=sys.stderr)
        if found.fatal:
            sys.exit(2)
    from benchmark.cli.app import main as start

    start()
