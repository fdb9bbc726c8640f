"""From an empty folder to results: data by `data fetch`, a model by open_clip's own table, both from the loopback hub."""

from __future__ import annotations

import os
import random
import resource
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.api import run as run_suite
from benchmark.data.prompts import imagenet_classes
from benchmark.engine.plan import make_plan
from benchmark.engine.run import run
from benchmark.spec.suite import load_suite
from tests.e2e.runs import finish, main, results
from tests.hub import Hub
from tests.layouts import write_imagenet_c, write_imagenet_folders, write_webdataset
from tests.models_zoo import write_checkpoint
from tests.published_hub import files_in, publish, published

MODEL, REPOSITORY = "ViT-tiny/small", "someone/vit-tiny"
WNIDS = ("n01440764", "n01518878", "n02129604")
SHORT = ("--task", "zero_shot", "--task", "calibration", "--task", "ood")
"""Of the suite `cifar` all but 75 corrupted versions."""


def settle(environment: Mapping[str, str], config: Path, largest: int | None = None) -> None:
    """In a process that starts: ask the loopback hub, and know the tiny architecture with its pretrained tag.

    Args:
        largest: bytes that a file may have; more is an error of the system, as on a full disk.
    """
    from huggingface_hub import constants
    from open_clip import add_model_config

    from benchmark.cli import validate
    from benchmark.models import catalogue, pretrained, references

    os.environ.update(environment)
    constants.ENDPOINT, constants.HF_HUB_CACHE = environment["HF_ENDPOINT"], environment["HF_HUB_CACHE"]
    constants.HUGGINGFACE_CO_URL_TEMPLATE = environment["HF_ENDPOINT"] + "/{repo_id}/resolve/{revision}/{filename}"
    known = pretrained.architectures() | {"ViT-tiny": config}
    for module in (pretrained, references, catalogue, validate):
        module.architectures = lambda: known  # type: ignore[attr-defined]
    add_model_config(config)
    table = pretrained.tags()
    table._PRETRAINED["ViT-tiny"] = {"small": table._pcfg(hf_hub=f"{REPOSITORY}/")}
    if largest is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))


@dataclass
class Place:
    """An empty folder of a user, beside a hub that has everything."""

    hub: Hub
    folder: Path
    config: Path
    downloads: Path
    environment: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self.environment = {
            **self.hub.environment(self.folder),
            **{"RELIQUANT_DATA": str(self.folder / "data"), "RELIQUANT_DOWNLOADS": str(self.downloads)},
            **{"RELIQUANT_CACHE": str(self.folder / "cache"), "OMP_NUM_THREADS": "1"},
        }

    def start(self, *command: str, largest: int | None = None) -> Any:
        """Start `reliquant COMMAND`; its output goes to `folder/log`."""
        return main(self.folder, *command, spoil=partial(settle, self.environment, self.config, largest))

    def call(self, *command: str) -> str:
        """The output of a command that succeeds."""
        status = finish(self.start(*command))
        said = (self.folder / "log").read_text()
        assert status == 0, said
        return said

    def fetch(self, *suites: str) -> tuple[str, ...]:
        """The command that fetches the data of suites."""
        return "data", "fetch", *suites, "--yes"

    def run(self, suite: str, *more: str) -> tuple[str, ...]:
        """The command that runs a suite on few images with the tiny model."""
        limits = ("--limit", "4", "--quant", "fp32", "--no-speed", "--tracker", "jsonl")
        return "run", suite, "--model", MODEL, "--home", str(self.folder / "home"), *limits, *more


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Hub, Path, Path]]:
    """A hub with all data of `cifar` and `imagenet` and the model, the architecture's file, and `downloads.yaml`."""
    folder = tmp_path_factory.mktemp("served")
    write_checkpoint("ViT", folder / "model")
    config = folder / "ViT-tiny.json"
    import json

    config.write_text(json.dumps(json.loads((folder / "model" / "open_clip_config.json").read_text())["model_cfg"]))
    with Hub() as hub:
        hub.model(REPOSITORY).commit_folder(folder / "model")
        publish(hub, published(folder / "scratch"), folder / "downloads.yaml")
        yield hub, config, folder / "downloads.yaml"


@pytest.fixture
def place(served: tuple[Hub, Path, Path], tmp_path: Path) -> Iterator[Place]:
    """An empty folder; the hub's faults end with the test."""
    hub, config, downloads = served
    yield Place(hub, tmp_path / "user", config, downloads)
    hub.heal()


@pytest.mark.slow
def test_two_commands_from_an_empty_folder_to_the_results_of_a_suite(place: Place) -> None:
    place.call(*place.fetch("suite:cifar", "suite:imagenet"))
    place.hub.forget()
    assert "all of it is here" in place.call(*place.fetch("suite:cifar", "suite:imagenet"))
    assert not place.hub.requests("/cdn/|/files/")
    for suite in ("cifar", "imagenet"):
        place.call(*place.run(suite))
    bindings = {(task, label) for suite in ("cifar", "imagenet") for task, of in load_suite(suite).tasks.items() for label in of}
    found = results(place.folder / "home").values()
    assert {(content["names"][3], content["names"][4]) for content, _ in found} == bindings
    assert {content["status"] for content, _ in found} == {"done"}
    assert place.hub.requests(f"{REPOSITORY}.*open_clip_model")
