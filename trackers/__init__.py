"""Trackers: MLflow and JSONL."""
