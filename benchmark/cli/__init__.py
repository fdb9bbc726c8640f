"""The command line: one module a command. Parsing and printing only."""

from benchmark.cli.app import main

__all__ = ["main"]
