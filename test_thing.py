"""Contract and meaning of the task thing."""

import numpy as np

from benchmark import Banks
from benchmark.testing import TaskContract, make_bank
from thing import thing


class TestThingContract(TaskContract):
    """Everything that reliquant asks of a task."""

    task = thing
    banks = Banks({"test": [make_bank(seed=0)]})


def test_a_perfect_model_makes_no_error() -> None:
    bank = make_bank(seed=1, accuracy=1.0)
    assert np.isclose(thing.run(Banks({"test": [bank]})).metrics["error"], 0.0)
