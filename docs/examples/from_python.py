"""What three quantizations do to a model on your own images, from Python.

Change MODEL and IMAGES, then: python docs/examples/from_python.py
Run again, it computes nothing that is finished. `reliquant ui` shows the same results in MLflow.
"""

from pathlib import Path

from benchmark import Settings, adjust, load_suite, make_plan, narrow, run
from benchmark.tracking import trackers

MODEL = "demo"  # e.g. "ViT-B-32/laion2b_s34b_b79k", "local-dir:path/to/model"
IMAGES = "path/to/images"  # holds one folder for each class, named like the class
LIMIT = 500  # images of each test set at most; None takes all
QUANTIZATIONS = ["fp32", "rtn-w8a8-vision", "rtn-w4a8-vision", "bnb-nf4-vision"]
HOME = Path("mlruns")  # where results and caches go


def main() -> None:
    """Plan, run, compare, print."""
    # The suite `folder` has three tasks: zero-shot accuracy, calibration, corruptions. Write your own suite for more.
    suite = load_suite("folder", data=[f"images={IMAGES}"])
    suite = narrow(suite, models=[MODEL], quantizations=QUANTIZATIONS, limit=LIMIT)

    # The plan checks names, files and fields, and runs nothing. Settings(device="cuda") uses a GPU.
    plan = make_plan(suite, Settings(device="cpu"))
    sweep = run(plan, HOME, trackers=[trackers.get("mlflow").open(HOME)])

    for record in sweep.failed:
        print(f"failed: {record.quantization}, {record.task}: {record.error}")

    # Each metric of each quantization against full precision, paired image by image. `adjust` corrects the p values
    # for the number of comparisons that are shown together.
    shown = ("zero_shot/images/accuracy", "calibration/images/ece_15", "corruption/images/accuracy")
    for change in adjust(change for change in sweep.changes if change.key in shown):
        low, high = change.low, change.high
        interval = "" if low is None or high is None else f"  95 % interval [{low:+.3f}, {high:+.3f}]"
        print(f"{change.quantization:32} {change.key:28} {change.change:+.3f}{change.stars:3}{interval}")


if __name__ == "__main__":  # worker processes import this file
    main()
