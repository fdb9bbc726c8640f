"""Simulated coverage of intervals and rejection of nulls, through the tasks. `python -m tests.statistics`."""
