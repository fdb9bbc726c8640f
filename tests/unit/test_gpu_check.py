"""`python -m tests.gpu` on a machine without a GPU: skips with reasons, prints its table, and notices what is wrong."""

from __future__ import annotations

import pytest
import torch

from tests import gpu
from tests.gpu import CHECKS, Check, tried


def test_without_a_gpu_everything_is_skipped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("COLUMNS", "120")
    assert gpu.main([]) == 0
    out = capsys.readouterr().out
    assert out.count("skipped") == out.count("no CUDA device") == len(CHECKS)
    assert "FAILED" not in out
    assert "passed" not in out


def test_an_older_gpu_skips_what_it_cannot_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (8, 6))
    reasons = {check.name: check.needs("cuda") for check in CHECKS}
    assert {name for name, reason in reasons.items() if "8.9" in reason} >= {"torchao FP8 weights"}
    assert reasons["int8 product"] == reasons["six tasks, bare loop"] == ""


def test_a_failure_ends_only_its_own_check(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def wrong(device: str) -> str:
        raise AssertionError("3 is not 4")

    made = (Check("one", gpu.anything, wrong), Check("two", gpu.anything, lambda device: "fine"))
    monkeypatch.setattr(gpu, "CHECKS", made)
    assert gpu.main(["--device", "cpu"]) == 1
    out = capsys.readouterr().out
    assert "AssertionError: 3 is not 4" in out
    assert "fine" in out


def test_when_the_time_is_over_the_rest_is_skipped() -> None:
    row = tried(Check("one", gpu.anything, lambda device: "fine"), "cpu", left=-1.0)
    assert (row.state, row.told) == ("skipped", "480 s are over")


def test_the_product_is_checked_and_a_wrong_one_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu.int8_product("cpu") == "3 sizes exact"
    monkeypatch.setattr(gpu, "_int_mm", lambda left, right: torch._int_mm(left, right.t()) + 1)
    with pytest.raises(AssertionError, match="is not exact"):
        gpu.int8_product("cpu")


def test_accuracies_far_from_the_cpus_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "sweep", lambda *_: None)
    monkeypatch.setattr(gpu, "accuracies", lambda _: {"fp32": 0.9})
    assert gpu.close({"bf16": 0.88}) == "bf16 0.880; fp32 on the CPU 0.900"
    with pytest.raises(AssertionError, match=r"bf16 0\.800"):
        gpu.close({"bf16": 0.8})
