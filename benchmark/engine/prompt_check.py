"""What a model's own tokenizer makes of the prompts: texts that it cuts, and classes that become one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmark.data import Data, prompts
from benchmark.data.labels import equal_prompts
from benchmark.errors import DataError
from benchmark.models.base import ClipModel
from benchmark.models.texts import cut_texts, whole_tokens

BATCH = 1024
SHOWN = 120
"""Characters of a prompt that is cut, in a record."""


def examine(model: ClipModel, names: Sequence[str], templates: Sequence[str] | None) -> dict[str, Any]:
    """Tokenize the prompts of all classes.

    Args:
        templates: None for texts that stand alone.

    Returns:
        JSON: `prompts`, their number; `cut`, how many are longer than the text tower's context (None where the
        tokenizer cannot tell), and an `example`; `equal`, pairs of classes (the first place of each and the second)
        all of whose prompts become the same tokens.
    """
    forms = ["{}"] if templates is None else [prompts.normalise(template) for template in templates]
    digests = [hashlib.sha256() for _ in names]
    total, cut, example = len(names) * len(forms), 0, None
    can_tell = True
    for start in range(0, total, BATCH):
        places = [divmod(place, len(forms)) for place in range(start, min(total, start + BATCH))]
        texts = [prompts.fill(forms[form], names[owner]) for owner, form in places]
        tokens = whole_tokens(model.tokenizer, texts).cpu()
        for (owner, _), row in zip(places, tokens.numpy(), strict=True):
            kept = np.trim_zeros(row - row[-1], "b")  # without the padding, whose length may differ between batches
            digests[owner].update(np.append(kept + row[-1], -1).astype("<i8").tobytes())
        too_long = cut_texts(model.tokenizer, texts, tokens)
        can_tell = can_tell and too_long is not None
        if too_long is not None and too_long.any():
            cut += int(too_long.sum())
            example = example or texts[int(too_long.argmax())][:SHOWN]
    found = {"prompts": total, "cut": cut if can_tell else None, "example": example}
    return found if templates is None else found | {"equal": _pairs([each.digest() for each in digests])}


def _pairs(digests: Sequence[bytes]) -> list[list[int]]:
    first: dict[bytes, int] = {}
    pairs = [[first.setdefault(each, place), place] for place, each in enumerate(digests)]
    return [pair for pair in pairs if pair[0] != pair[1]]


def check(data: Data, found: Mapping[str, Any]) -> None:
    """Refuse classes that the model cannot tell apart, unless the data set allows them.

    Raises:
        DataError: names the data set and the first pair.
    """
    if not data.equal_prompts and found.get("equal"):
        first, second = found["equal"][0]
        prompt = prompts.fill(data.templates[0], data.class_names[second])
        raise DataError(f"data set '{data.name}': {equal_prompts((first, second), data.class_names, prompt)}")
