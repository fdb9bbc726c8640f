"""The identity of a model: its name for people, its digest for caches."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmark.errors import ModelError
from benchmark.models.preprocess import Preprocess
from benchmark.spec import digest
from benchmark.spec.models import catalogue_ref, known_models
from benchmark.utils.digests import file_digest

ADAPTER_VERSION = 1
"""Part of every model's digest; raise it when an adapter changes a model's output."""

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt"),
    *("vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model"),
)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(data, dict):
        raise ModelError(f"{path}: expected a JSON object")
    return data


def tokenizer_files(folder: Path) -> tuple[Path, ...]:
    """The tokenizer's files in a model folder."""
    return tuple(folder / name for name in TOKENIZER_FILES if (folder / name).is_file())


def model_digest(config: Mapping[str, Any], preprocess: Preprocess, files: Iterable[Path]) -> str:
    """SHA-256 over architecture, preprocessing and the bytes of the files; their names and places do not count."""
    try:
        contents = [file_digest(path) for path in files]
    except OSError as error:
        raise ModelError(f"{error.filename}: cannot be read ({error.strerror})") from None
    return digest([ADAPTER_VERSION, dict(config), asdict(preprocess), contents])


def canonical_ref(ref: str) -> str:
    """One text for every spelling of a reference: the catalogue's, the whole path of a file or folder, else itself.

    >>> canonical_ref("hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K")
    'ViT-B-32/laion2b_s34b_b79k'
    """
    known = catalogue_ref(ref)
    if not ref or known != ref or known in known_models():
        return known
    for scheme in ("local-dir:", "exported:", "transformers:", ""):
        path = Path(ref.removeprefix(scheme)).expanduser()
        if ref.startswith(scheme) and path.exists():
            kind = scheme if scheme == "transformers:" else ""
            return f"{kind}{path.resolve()}"
    return ref


def display_name(ref: str) -> str:
    """A name for file names and metric keys: at most 64 characters, letters, digits, `_`, `.` and `-`."""
    scheme, colon, rest = ref.partition(":")
    path = Path(rest if colon else ref).expanduser()
    if scheme == "local-dir" or path.exists():
        text = path.resolve().name
    elif colon:
        text = re.sub(r"@([0-9a-f]{8})[0-9a-f]{32}$", r"-\1", rest).replace("/", ".")
    else:
        architecture, _, tag = ref.partition("/")
        text = f"{architecture}.{Path(tag).stem if Path(tag).is_file() else tag}" if tag else architecture
    safe = re.sub(r"[^A-Za-z0-9_.-]+", "-", text).lstrip("-._") or "model"
    if len(safe) <= 64:
        return safe
    return f"{safe[:55]}-{hashlib.sha256(ref.encode()).hexdigest()[:8]}"
