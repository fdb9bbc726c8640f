"""The embedded default: a seeded renderer of scenes, a tiny CLIP trained on them, and the script that trained it."""
