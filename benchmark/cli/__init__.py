"""The command line: one module per command. Parsing and printing only."""

from benchmark.cli.app import main

__all__ = ["main"]
