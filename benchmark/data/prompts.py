"""Class names and prompt templates: built-in, from a text file, from a list. Nothing falls back to ImageNet's."""

from __future__ import annotations

import functools
import random
import re
import runpy
from collections.abc import Sequence
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmark.errors import DataError, UnknownNameError
from benchmark.utils.files import nfc, read_lines, read_names, resolve

SIMPLE: tuple[str, ...] = ("a photo of a {}.",)
"""The templates of data without any; the record then says `templates_origin: simple`."""

BUILT_IN_CLASSES = ("imagenet", "vocabulary")
VOCABULARY_SIZE = 1_000
MOST_CLASSES, LONGEST_NAME = 50_000, 1_000
"""ImageNet-21k has 21,843 classes; text towers read 77 tokens or fewer."""
BUILT_IN_TEMPLATES = ("imagenet", "simple")


@functools.cache
def imagenet_wnids() -> tuple[str, ...]:
    """The 1,000 WordNet ids of ImageNet-1k in the order of its labels."""
    return tuple(files("benchmark.data").joinpath("imagenet_wnids.txt").read_text(encoding="utf-8").split())


@functools.cache
def _open_clip_lists() -> dict[str, Any]:
    """The file of open_clip that holds nothing but lists: to import the package takes three seconds."""
    place = getattr(find_spec("open_clip"), "origin", None)  # finds, and does not import
    return runpy.run_path(str(Path(str(place)).with_name("zero_shot_metadata.py")))


@functools.cache
def imagenet_classes() -> tuple[str, ...]:
    """open_clip's 1,000 curated names of ImageNet-1k in the order of its labels ("missile", "sunglasses" twice)."""
    return tuple(_open_clip_lists()["IMAGENET_CLASSNAMES"])


@functools.cache
def vocabulary() -> tuple[str, ...]:
    """1,000 whole words of four letters or more from CLIP's own vocabulary, a seeded choice: negative labels.

    Crude beside a list of nouns from WordNet (names and verbs are among them), but it comes with open_clip.
    """
    from open_clip.tokenizer import SimpleTokenizer

    whole = (token.removesuffix("</w>") for token in SimpleTokenizer().encoder if token.endswith("</w>"))
    words = sorted(word for word in whole if len(word) >= 4 and word.isascii() and word.isalpha())
    return tuple(random.Random(0).sample(words, VOCABULARY_SIZE))


@functools.cache
def imagenet_templates() -> tuple[str, ...]:
    """open_clip's 80 templates for ImageNet."""
    return tuple(template("{}") for template in _open_clip_lists()["OPENAI_IMAGENET_TEMPLATES"])


def class_names(value: str | Sequence[str]) -> tuple[str, ...]:
    """Class names from a list, a built-in (`imagenet`, `vocabulary`), or a text file with one name a line.

    They are in Unicode's composed form, without blanks around them.

    Raises:
        UnknownNameError: a single word that is neither a built-in nor an existing file.
        DataError: an unreadable or empty file, an empty name; an empty line or a comment between names.
    """
    if not isinstance(value, str):
        names = tuple(map(nfc, value))
    elif value == "imagenet":
        names = imagenet_classes()
    elif value == "vocabulary":
        names = vocabulary()
    else:
        names = read_names(_file(value, "class list", BUILT_IN_CLASSES))
    check_classes(names)
    return names


def check_classes(names: Sequence[str]) -> None:
    """Refuse what no text tower could embed in reasonable time, before any work.

    Raises:
        DataError: more than `MOST_CLASSES`, or a name that is empty or longer than `LONGEST_NAME`.
    """
    if len(names) > MOST_CLASSES:
        raise DataError(f"{len(names):,} classes, at most {MOST_CLASSES:,}; keep some by the option 'subset'")
    for number, name in enumerate(names):
        if not name.strip():
            raise DataError(f"class name number {number} is empty")
        if len(name) > LONGEST_NAME:
            raise DataError(f"class name number {number} ('{name[:40]}...') has {len(name):,} letters, at most 1,000")


def templates(value: str | Sequence[str]) -> tuple[str, ...]:
    """Prompt templates from a list, a built-in (`imagenet`, `simple`), or a text file with one template a line.

    Raises:
        UnknownNameError, DataError: as for `class_names`; DataError for a template without `{}`.
    """
    if not isinstance(value, str):
        found = tuple(value)
    elif value == "imagenet":
        return imagenet_templates()
    elif value == "simple":
        return SIMPLE
    else:
        found = read_lines(_file(value, "template list", BUILT_IN_TEMPLATES))
    return tuple(normalise(template) for template in found)


def normalise(template: str) -> str:
    """CLIP_benchmark writes `{c}` where this package writes `{}`; exactly one of them must be there."""
    template = template.replace("{c}", "{}")
    if template.count("{}") != 1:
        raise DataError(f"template '{template}': expected one '{{}}' where the class name goes")
    return template


def fill(template: str, name: str) -> str:
    """The template with the class name in place of `{}`; braces in the name stay as they are."""
    before, after = template.split("{}")
    return f"{before}{name}{after}"


def wnid_labels(folders: Sequence[str]) -> dict[str, int] | None:
    """ImageNet-1k labels of folders named by WordNet id; None when a folder is named otherwise.

    Raises:
        DataError: WordNet ids, but one of them is not among ImageNet-1k's.
    """
    if not folders or not all(re.fullmatch(r"n\d{8}", folder) for folder in folders):
        return None
    index = {wnid: label for label, wnid in enumerate(imagenet_wnids())}
    for folder in folders:
        if folder not in index:
            raise DataError(f"{folder}: not one of the 1,000 WordNet ids of ImageNet-1k; give 'classes:' a list")
    return {folder: index[folder] for folder in folders}


def _file(value: str, kind: str, built_in: Sequence[str]) -> Path:
    if "/" not in value and "." not in value and "$" not in value:
        raise UnknownNameError(f"{kind} (built-in; a file needs a path or suffix)", value, built_in)
    return resolve(value)
