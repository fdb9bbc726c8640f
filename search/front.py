"""Pareto fronts and hypervolumes, all losses: lower is better in every column."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from benchmark.errors import InputError

Floats = npt.NDArray[np.float64]


def non_dominated(losses: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Which rows are on the front.

    A row is dominated where another is nowhere worse and somewhere better; equal rows stand together.

    Args:
        losses: (N, M), finite.

    Returns:
        (N,) bool.
    """
    points = _points(losses)
    no_worse = (points[:, None, :] <= points[None, :, :]).all(-1)
    better = (points[:, None, :] < points[None, :, :]).any(-1)
    dominated: npt.NDArray[np.bool_] = np.any(no_worse & better, axis=0)
    return ~dominated


def hypervolume(losses: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """Volume between the front and a reference point (Zitzler & Thiele 1998).

    Points that are not better than the reference in every column add nothing. By slices along the last column: exact,
    for the few columns and few hundred points of a study.

    Args:
        losses: (N, M). reference: (M,).
    """
    points, corner = _points(losses), np.asarray(reference, np.float64)
    if corner.shape != points.shape[1:]:
        raise InputError(f"hypervolume: the reference has {corner.size} values, the points {points.shape[1]}")
    inside = points[(points < corner).all(1)]
    return _volume(np.unique(inside, axis=0), corner)


def hypervolume_curve(losses: npt.ArrayLike, reference: npt.ArrayLike) -> Floats:
    """(N,) hypervolume of the first 1, 2, ..., N points."""
    points = _points(losses)
    best: Floats = np.zeros((0, points.shape[1]))
    curve = np.zeros(len(points))
    for i, point in enumerate(points):
        best = np.vstack([best, point])
        best = best[non_dominated(best)]
        curve[i] = hypervolume(best, reference)
    return curve


def _volume(points: Floats, corner: Floats) -> float:
    if not len(points):
        return 0.0
    if points.shape[1] == 1:
        return float(corner[0] - points[:, 0].min())
    ordered = points[np.argsort(points[:, -1], kind="stable")]
    heights = np.append(ordered[1:, -1], corner[-1]) - ordered[:, -1]
    return float(sum(h * _volume(ordered[: i + 1, :-1], corner[:-1]) for i, h in enumerate(heights) if h > 0))


def _points(losses: npt.ArrayLike) -> Floats:
    points = np.asarray(losses, np.float64)
    if points.ndim != 2 or not points.shape[1]:
        raise InputError(f"losses: expected (points, objectives), got shape {points.shape}")
    if not np.isfinite(points).all():
        raise InputError("losses: they must be finite")
    return points
