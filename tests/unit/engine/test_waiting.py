"""Configurations that another process holds come later; what ends a task or an embedding has its name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from benchmark.engine import local
from benchmark.engine.evaluate import evaluate
from benchmark.engine.local import Local
from benchmark.plugins import tasks


class Leases:
    """Others hold some configurations for their first looks."""

    def __init__(self, held: dict[str, int]) -> None:
        self.held = held

    @contextmanager
    def lease(self, key: str) -> Iterator[str | None]:
        self.held[key] = self.held.get(key, 0) - 1
        yield f"the owner of {key}" if self.held[key] >= 0 else None


class Noting(Local):
    """Completes nothing, and notes what it would."""

    def _complete(self, configuration: Any) -> None:
        self.done.append(configuration.key)  # type: ignore[attr-defined]


def noting(held: dict[str, int]) -> tuple[Noting, list[str], list[str]]:
    """An executor of three configurations, what it completes, and what it says."""
    said: list[str] = []
    plan = SimpleNamespace(
        configurations=[
            SimpleNamespace(
                key=name,
                quantized_key=f"{name} model",
                quant=SimpleNamespace(name=name),
                model=SimpleNamespace(name="m"),
            )
            for name in ("one", "two", "three")
        ]
    )
    progress = SimpleNamespace(message=said.append)
    made = Noting(SimpleNamespace(plan=plan, leases=Leases(held), progress=progress), None)  # type: ignore[arg-type]
    made.done = []  # type: ignore[attr-defined]
    return made, made.done, said  # type: ignore[attr-defined]


def test_a_configuration_that_another_process_holds_is_left_for_later() -> None:
    made, done, said = noting({"one model": 1})
    steps: list[int] = []
    made.run(steps.append)
    assert done == ["two", "three", "one"]
    assert steps == [1, 1, 1]
    assert said == []


def test_where_all_are_held_it_waits_and_says_once_for_whom(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(local.time, "sleep", pauses.append)
    made, done, said = noting({"one model": 3, "two model": 2, "three model": 2})
    made.run(lambda _: None)
    assert done == ["two", "three", "one"]
    assert len(pauses) == 2
    assert said == ["waiting for the owner of one model, which evaluates m, one"]


def test_an_attempt_to_end_the_process_while_embedding_is_a_failure_with_its_name() -> None:
    def bank(*_: object) -> None:
        raise SystemExit(3)

    maker = SimpleNamespace(
        bank=bank, full_precision=None, configuration=SimpleNamespace(quant=SimpleNamespace(name="rtn-w4"))
    )
    evaluation = SimpleNamespace(task=tasks.get("zero_shot"), roles={"test": ("photos",)}, taps=(), texts={})
    result = evaluate(maker, evaluation, {"cpu": "x"})  # type: ignore[arg-type]
    assert result.error == "rtn-w4: embedding raised SystemExit: 3"
    assert result.provenance == {"cpu": "x"}
    assert result.outcome is None
