"""The metrics of retrieval from `Seen`, by their definitions in docs/retrieval.md: see oracle_features.py."""

from typing import Any

import numpy as np

from tests.reference.oracle_features import Seen, unit


def retrieval(now: Seen, full: Seen) -> dict[str, Any]:
    """Sort all of the index for each query, equal scores by place; rows are in the order of their ids."""
    n, found = len(now.ids), {"images": len(now.ids), "captions": len(now.words)}
    differ = {part: not np.array_equal(getattr(now, part), getattr(full, part)) for part in ("image", "said")}
    owners = {"image": np.arange(n), "said": now.owner}
    ways = {"": (now, now), "new_queries/": (now, full), "new_index/": (full, now)}
    for name, (asks, has) in {"image_to_text": ("image", "said"), "text_to_image": ("said", "image")}.items():
        best = ranking(full, full, asks, has)
        for way, (one, two) in ways.items():
            if any(differ.values()) and not ((one is now and differ[asks]) or (two is now and differ[has])):
                continue
            order = ranking(one, two, asks, has)
            first = (owners[has][order] == owners[asks][:, None]).argmax(1)
            fit = [k for k in (1, 5, 10) if k < len(owners[has])]
            found |= {f"{name}/{way}recall_at_{k}": np.mean(first < k) for k in fit}
            found |= {f"{name}/{way}overlap_at_10": shared(order, best)} if 10 in fit else {}
    best = ranking(full, full, "image", "image", itself=False)
    for way, (one, two) in ways.items() if differ["image"] or not differ["said"] else ():
        if way and n > 1:
            found[f"image_to_image/{way}finds_itself"] = np.mean(
                ranking(one, two, "image", "image")[:, 0] == np.arange(n)
            )
        if n > 11:
            found[f"image_to_image/{way}overlap_at_10"] = shared(ranking(one, two, "image", "image", False), best)
    return found


def ranking(one: Seen, two: Seen, asks: str, has: str, itself: bool = True) -> Any:
    """(Q, N) places of the index, the most similar first."""
    score = np.round(unit(getattr(one, asks)) @ unit(getattr(two, has)).T, 9)
    if not itself:
        np.fill_diagonal(score, -2.0)
    return np.argsort(-score, axis=1, kind="stable")


def shared(order: Any, best: Any) -> Any:
    """Share of the first ten that are among the first ten of the other."""
    return np.mean([len({*a[:10]} & {*b[:10]}) / 10 for a, b in zip(order, best, strict=True)])
