"""Towers as graphs of another runtime: converted, quantized by its own tools, read back for the report."""
