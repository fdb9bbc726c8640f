"""Retrieval against other implementations: CLIP_benchmark's definition in torch, and a sort of every query."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmark import Banks
from benchmark.errors import InputError
from benchmark.metrics.retrieval import kept, overlap_replicates, search
from benchmark.plugins import tasks
from benchmark.testing import make_bank

Array = Any
retrieval = tasks.get("retrieval")


def recalls_by_definition(images: torch.Tensor, texts: torch.Tensor, owner: torch.Tensor, k: int) -> dict[str, float]:
    """Recall as in CLIP_benchmark's `zeroshot_retrieval`: a matrix of right pairs, and `topk` of the scores.

    A query counts as found if at least one right item is among its first k.
    """
    scores = texts @ images.T
    right = torch.zeros_like(scores, dtype=torch.bool)
    right[torch.arange(len(texts)), owner] = True
    return {
        name: right_of.gather(1, scores_of.topk(k, dim=1).indices).any(dim=1).double().mean().item()
        for name, scores_of, right_of in (
            ("text_to_image", scores, right),
            ("image_to_text", scores.T, right.T),
        )
    }


@pytest.mark.parametrize("captions", [1, 5])
def test_recall_is_that_of_clip_benchmark(captions: int) -> None:
    bank = make_bank(seed=4, samples=90, captions=captions, dimension=24)
    assert bank.caption is not None
    assert bank.caption_image is not None
    found = retrieval.run(Banks({"test": [bank]})).metrics
    pair = torch.from_numpy(bank.image), torch.from_numpy(bank.caption), torch.from_numpy(bank.caption_image)
    for k in (1, 5, 10):
        expected = recalls_by_definition(*pair, k)
        assert min(expected.values()) > 0.1
        for direction, value in expected.items():
            assert found[f"{direction}/recall_at_{k}"] == pytest.approx(value, abs=1e-12)
    assert found["text_to_image/recall_at_1"] < 0.99


def test_uneven_captions_are_those_of_their_images() -> None:
    """Images with one to four captions, in any order."""
    bank, rng = make_bank(seed=5, samples=40, captions=4), np.random.default_rng(2)
    assert bank.caption is not None
    kept = np.flatnonzero((np.arange(160) % 4 == 0) | (rng.random(160) < 0.5))
    mixed = rng.permutation(kept)
    uneven = make_bank(seed=5, samples=40, caption=bank.caption[mixed], caption_image=mixed // 4)
    found = retrieval.run(Banks({"test": [uneven]})).metrics
    pair = torch.from_numpy(uneven.image), torch.from_numpy(bank.caption[kept]), torch.from_numpy(kept // 4)
    for direction, value in recalls_by_definition(*pair, 1).items():
        assert found[f"{direction}/recall_at_1"] == pytest.approx(value, abs=1e-12)


def by_sorting(
    queries: Array, index: Array, spans: Array, k: int, but_itself: bool
) -> tuple[list[int], list[list[int]]]:
    """Python's stable sort of the whole index for each query."""
    ranks, nearest = [], []
    for query, (start, stop) in zip(queries, spans, strict=True):
        score = [float(np.float32(np.dot(query.astype(float), item.astype(float)))) for item in index]
        order = sorted(range(len(index)), key=lambda place: -score[place])
        ranks.append(next(at for at, place in enumerate(order) if start <= place < stop))
        others = [place for place in order if not (but_itself and start <= place < stop)]
        nearest.append(sorted(others[:k]))
    return ranks, nearest


@given(
    st.integers(1, 9),
    st.integers(3, 24),
    st.integers(0, 2),
    st.sampled_from([1, 200, 100_000]),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_search_equals_sorting_with_many_ties(count, items, k, block_bytes, but_itself, random) -> None:  # type: ignore[no-untyped-def]
    """Features of few values tie often; whatever the block, the result is that of a stable sort."""
    draw = [[random.choice([-1.0, 0.0, 1.0]) for _ in range(3)] for _ in range(count + items)]
    every = np.array(draw, np.float32)
    queries, index = every[:count], every[count:]
    starts = [random.randrange(items) for _ in range(count)]
    spans = np.array([[at, min(items, at + (1 if but_itself else random.randint(1, 3)))] for at in starts])
    found = search(queries, index, spans, k, but_itself=but_itself, block_bytes=block_bytes)
    ranks, nearest = by_sorting(queries, index, spans, k, but_itself)
    assert found.rank.tolist() == ranks
    assert found.nearest.tolist() == nearest


def test_blocks_and_tiles_change_nothing() -> None:
    """More queries than a block and more items than a tile, in the features of real models' width."""
    rng = np.random.default_rng(0)
    every = rng.standard_normal((2600, 96)).astype(np.float32)
    every /= np.linalg.norm(every, axis=1, keepdims=True)
    every[1000:1040] = every[:40]  # equal items tie in every block
    spans = np.arange(70)[:, None] + [0, 1]
    wanted = search(every[:70], every, spans, 10, block_bytes=10**9)
    for block_bytes in (1, 400_000, 3_000_000):
        found = search(every[:70], every, spans, 10, block_bytes=block_bytes)
        np.testing.assert_array_equal(found.rank, wanted.rank)
        np.testing.assert_array_equal(found.nearest, wanted.nearest)


def test_similarities_are_never_all_in_memory() -> None:
    """All of them would take 160 MB."""
    rng = np.random.default_rng(0)
    queries, index = (rng.standard_normal((count, 8)).astype(np.float32) for count in (2000, 20_000))
    tracemalloc.start()
    search(queries, index, np.arange(2000)[:, None] + [0, 1], 10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 70e6


def test_overlap_counts_what_two_lists_share() -> None:
    rng = np.random.default_rng(1)
    first, second = (np.array([np.sort(rng.permutation(14)[:10]) for _ in range(50)]) for _ in range(2))
    expected = [[item in row for item in before] for row, before in zip(first, second, strict=True)]
    assert kept(first, second).tolist() == expected
    assert kept(first, first).all()


def test_replicates_of_an_overlap_leave_pictures_out_as_queries_and_as_items() -> None:
    rng = np.random.default_rng(2)
    there, queries, items = rng.random((80, 10)) < 0.7, rng.integers(0, 64, 80), rng.integers(0, 64, (80, 10))
    found = overlap_replicates(there, queries, items)
    for group in range(64):
        left = [
            there[row, place]
            for row in range(80)
            for place in range(10)
            if queries[row] != group and items[row, place] != group
        ]
        assert found[group] == pytest.approx(np.mean(left), abs=1e-12)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((np.zeros((2, 3)), np.zeros((4, 5)), [[0, 1]] * 2), r"queries \(2, 3\) and index \(4, 5\)"),
        ((np.zeros((2, 3)), np.zeros((4, 3)), [[0, 1]]), r"right: expected shape \(2, 2\), got \(1, 2\)"),
        ((np.zeros((2, 3)), np.zeros((4, 3)), [[0, 1], [2, 2]]), "each query needs at least one item among the 4"),
        ((np.zeros((2, 3)), np.zeros((4, 3)), [[0, 1], [3, 5]]), "each query needs at least one item among the 4"),
        ((np.zeros((2, 3)), np.zeros((4, 3)), [[0, 1]] * 2, 5), "nearest: 5, the index has 4 items"),
    ],
)
def test_what_does_not_fit_is_one_line(arguments: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        search(*arguments)
    with pytest.raises(InputError, match="expected the same shape"):
        kept(np.zeros((2, 0)), np.zeros((2, 0)))


def test_features_that_say_nothing_find_as_often_as_chance() -> None:
    """A model that maps everything to one vector: recall at k is k over the number of images."""
    bank = make_bank(samples=50, captions=1)
    same = np.tile(bank.image[:1], (50, 1))
    collapsed = make_bank(samples=50, captions=1, image=same, caption=same)
    found = retrieval.run(Banks({"test": [collapsed]})).metrics
    assert [found[f"text_to_image/recall_at_{k}"] for k in (1, 5, 10)] == [0.02, 0.1, 0.2]


def test_equal_captions_are_right_for_their_own_image_only() -> None:
    """As in CLIP_benchmark: of two images with one caption, one is found first by it."""
    bank = make_bank(samples=20, captions=1)
    assert bank.caption is not None
    caption = bank.image.copy()
    caption[1] = caption[0]
    found = retrieval.run(Banks({"test": [make_bank(samples=20, captions=1, caption=caption)]}))
    assert found.metrics["text_to_image/recall_at_1"] == 0.95
    assert found.columns["captions"]["text_to_image/rank"][0] == 0
    assert found.columns["captions"]["text_to_image/rank"][1] > 0
