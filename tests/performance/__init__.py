"""Benchmarks: `make bench` writes docs/performance.md, `python -m tests.performance.load` docs/scale.md."""
