"""Find the cheapest quantization of a model that is not worse, on your own images.

Change MODEL and IMAGES, then: python docs/examples/search_own_images.py
`reliquant dashboard` shows the study while it runs. The same from the shell:
reliquant search folder --model MODEL --data images=IMAGES --trials 50
"""

from pathlib import Path

from search.command import run_search
from search.request import SearchRequest

MODEL = "demo"  # e.g. "ViT-B-32/laion2b_s34b_b79k", "local-dir:path/to/model"
IMAGES = "path/to/images"  # holds one folder for each class, named like the class
LIMIT = 500  # images of each test set at most; None takes all
TRIALS = 50  # different configurations to evaluate
HOME = Path("mlruns")  # where the study, results and caches go


def main() -> None:
    """Search, print the recommendation, say where the files are."""
    request = SearchRequest(
        suite="folder",  # zero-shot accuracy, calibration and corruptions; the path of a suite of yours works too
        models=[MODEL],
        data=[f"images={IMAGES}"],
        limit=LIMIT,
        trials=TRIALS,
        methods=["rtn", "mse", "hqq", "bnb-nf4"],  # leave it out to search all methods that need no calibration data
        minimize="effective_bits",  # while every headline metric stays within its margin
        seed=0,
        name="my-images",
        home=HOME,
    )
    # The search chooses on one half of the images and judges on the other. To go on with a study that was stopped:
    # SearchRequest(trials=TRIALS, resume="my-images", home=HOME).
    status = run_search(request)
    print(f"exit status {status}; figures and front.yaml: {HOME / 'studies' / 'my-images'}")


if __name__ == "__main__":  # worker processes import this file
    main()
