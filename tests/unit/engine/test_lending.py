"""What is lent is not changed: banks to tasks, the full-precision model to quantizers; locks of stopped processes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark.bank import read_only
from benchmark.engine.holding import ModelHolder
from benchmark.engine.leases import Leases
from benchmark.errors import PluginError, StorageError
from benchmark.export.writing import new_folder
from benchmark.models import resolve
from benchmark.models.base import ClipModel
from benchmark.spec import ModelSpec, parse_spec
from benchmark.utils.checksums import checksum
from benchmark.utils.locking import exclusive
from benchmark.utils.processes import owner


@pytest.mark.parametrize(
    "array",
    [np.arange(6.0).reshape(2, 3), np.arange(6.0).reshape(2, 3).T, np.array(["a", "bc"]), np.zeros((0, 3)), np.ones(1)],
    ids=lambda a: f"{a.dtype}{a.shape}",
)
def test_a_lent_array_is_the_same_and_stays_so(array: np.ndarray) -> None:
    lent = read_only(array)
    assert np.array_equal(lent, array)
    assert (lent.dtype, lent.shape, lent.strides) == (array.dtype, array.shape, array.strides)
    if array.size:
        assert np.shares_memory(lent, array)
        with pytest.raises(ValueError, match="WRITEABLE"):
            lent.flags.writeable = True


def test_a_checksum_sees_every_byte_and_its_place() -> None:
    values = np.random.default_rng(0).integers(0, 256, 3_000_011, dtype=np.uint8)
    first = checksum(values)
    for place in (0, 7, 8, 524_288, 3_000_010):
        values[place] ^= 1
        assert checksum(values) != first
        values[place] ^= 1
    swapped = values.copy()
    swapped[:8], swapped[524_288:524_296] = values[524_288:524_296], values[:8]
    assert checksum(values) == first != checksum(swapped)


@pytest.fixture(scope="module")
def holder() -> ModelHolder:
    return ModelHolder(resolve(parse_spec(ModelSpec, "demo", "model")), "cpu")


def _forward(model: ClipModel) -> None:
    model.module.forward = lambda *_: None


CHANGES: dict[str, Callable[[ClipModel], object]] = {
    "data": lambda model: next(model.module.parameters()).data.view(-1)[0].add_(1e-3),
    "buffer": lambda model: model.module.register_buffer("own", torch.zeros(1)),
    "hook": lambda model: model.module.register_forward_hook(lambda *_: None),
    "mode": lambda model: model.module.train(),
    "forward": _forward,
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_original_is_said_and_loaded_again(holder: ModelHolder, change: str) -> None:
    with holder.lent("nobody") as before:
        before.encode_text(["a cat"])  # running it is no change
    with (
        pytest.raises(PluginError, match="method 'm' changes the full-precision model"),
        holder.lent("method 'm'") as it,
    ):
        CHANGES[change](it)
    assert holder.model is not before
    with holder.lent("nobody"):
        pass


def test_a_changed_original_is_let_go_also_where_the_method_fails(holder: ModelHolder) -> None:
    before = holder.model

    def fail() -> None:
        with holder.lent("m") as model:
            CHANGES["data"](model)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert holder.model is not before


HOLD = """
import sys, time
from pathlib import Path
from benchmark.engine.leases import Leases
from benchmark.utils.locking import exclusive
with Leases(Path(sys.argv[1])) as leases, exclusive(Path(sys.argv[1]) / "lock"):
    leases.take("k")
    print("held", flush=True)
    sys.stdin.read()
    print(leases.ours("k"), flush=True)
"""


TAKE = """
import sys
from pathlib import Path
from benchmark.engine.leases import Leases
with Leases(Path(sys.argv[1])) as leases:
    print(leases.take("k"), end="")
"""


def test_a_stopped_process_keeps_nothing_for_ever(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "held\n"
        with Leases(tmp_path, stopped=0.3) as mine, Leases(tmp_path, stopped=0.3) as third:
            time.sleep(0.4)
            assert mine.take("k") is not None  # silent, but it runs
            process.send_signal(signal.SIGSTOP)
            deadline = time.monotonic() + 20
            while mine.take("k") is not None:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert third.take("k") == owner()
            with exclusive(tmp_path / "lock", needed=False, patience=0.0) as held:
                assert not held
            with (
                pytest.raises(StorageError, match=f"process {process.pid}, which is stopped"),
                exclusive(tmp_path / "lock", patience=0.0),
            ):
                pass
            process.send_signal(signal.SIGCONT)
            process.stdin.close()
            assert process.stdout.read() == "False\n"
            assert process.wait(20) == 0
            assert mine.ours("k")
            other = [sys.executable, "-c", TAKE, str(tmp_path)]  # its lock is free by now, its owner lives
            assert subprocess.run(other, capture_output=True, text=True, check=True).stdout == owner()


def test_the_next_export_removes_what_killed_ones_left(tmp_path: Path) -> None:
    gone, alive = tmp_path / ".a-1-00000001", tmp_path / ".b-1-00000002"
    theirs = tmp_path / ".c-999999999-00000003"
    early = tmp_path / ".d-999999999-00000004"
    for folder in (gone, alive, theirs, early):
        folder.mkdir()
    (gone / ".owner").write_text(owner() + "1")
    (alive / ".owner").write_text(owner())
    (theirs / "thesis.txt").write_text("")
    (early / "model.safetensors").write_text("")
    with new_folder(tmp_path / "new") as aside:
        (aside / "x").write_text("")
    assert {path.name for path in tmp_path.iterdir()} == {alive.name, theirs.name, "new"}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x"]
