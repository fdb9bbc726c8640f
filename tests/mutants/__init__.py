"""Mutation testing: `make mutants` scores the quick tests, `make mutants-pinned` is CI's part. See docs/testing.md."""
