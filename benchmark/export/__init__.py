"""Quantized models as folders: written by `reliquant export`, run by `--model DIR`, served from a model registry."""

from __future__ import annotations
