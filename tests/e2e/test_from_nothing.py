"""From an empty folder to results: data by `data fetch`, a model by open_clip's table, both from the loopback hub."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmark.engine.plan import make_plan
from benchmark.engine.run import run
from benchmark.spec.suite import load_suite
from tests.e2e.runs import finish, main, results
from tests.hub import Hub
from tests.layouts import write_imagenet_c, write_imagenet_folders
from tests.models_zoo import write_checkpoint
from tests.published_hub import files_in, publish, published, tar_of, zip_of

MODEL, REPOSITORY = "ViT-tiny/small", "someone/vit-tiny"
WNIDS = ("n01440764", "n01518878", "n02129604")
SHORT = ("--task", "zero_shot", "--task", "ood")
"""Of the suite `cifar` what needs neither 75 corrupted versions nor the captions."""


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


@pytest.fixture
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], Place]]:
    """Makes empty folders by name, beside a hub with the model and all data of `cifar`, and of `imagenet` if asked."""
    write_checkpoint("ViT", tmp_path / "model")
    config, downloads = tmp_path / "ViT-tiny.json", tmp_path / "downloads.yaml"
    about = json.loads((tmp_path / "model" / "open_clip_config.json").read_text())
    config.write_text(json.dumps(about["model_cfg"]))
    with Hub() as hub:
        hub.model(REPOSITORY).commit_folder(tmp_path / "model")
        publish(hub, published(tmp_path / "scratch", request.param == "imagenet"), downloads)
        yield lambda name: Place(hub, tmp_path / name, config, downloads)


@pytest.mark.slow
@pytest.mark.parametrize("served", ["imagenet"], indirect=True)
def test_two_commands_from_an_empty_folder_to_the_results_of_a_suite(served: Callable[[str], Place]) -> None:
    place = served("user")
    place.call(*place.fetch("suite:cifar", "suite:imagenet"))
    place.hub.forget()
    assert "all of it is here" in place.call(*place.fetch("suite:cifar", "suite:imagenet"))
    assert not place.hub.requests("/cdn/|/files/")
    for suite in ("cifar", "imagenet"):
        place.call(*place.run(suite))
    suites = [load_suite(suite) for suite in ("cifar", "imagenet")]
    bindings = {(task, label) for suite in suites for task, labels in suite.tasks.items() for label in labels}
    found = results(place.folder / "home").values()
    assert {(content["names"][3], content["names"][4]) for content, _ in found} == bindings
    assert {content["status"] for content, _ in found} == {"done"}
    assert place.hub.requests(f"{REPOSITORY}.*open_clip_model")


KINDS = ("kill", "cut", "full", "moved")


def disturb(place: Place, command: tuple[str, ...], kind: str, rng: random.Random, seconds: float) -> tuple[bool, bool]:
    """Disturb one command at a random moment: whether it was disturbed indeed, and whether it ended well.

    A fetch is killed behind a random number of answers of the hub, a run within `seconds`.
    """
    fault = None
    if kind == "cut":
        fault = place.hub.cut("GET .*(/cdn/|/files/|/resolve)", rng.randrange(1, 5_000), 1, reset=rng.random() < 0.5)
    if kind == "moved":
        for repository in list(place.hub.repositories.values()):
            repository.commit({"README.md": f"moved {rng.random()}"})
    place.hub.forget()
    process = place.start(*command, largest=rng.randrange(500, 10_000) if kind == "full" else None)
    if kind == "kill":
        answers, until = rng.randint(1, 12), time.monotonic() + (rng.uniform(0, seconds) if command[0] == "run" else 60)
        while process.is_alive() and time.monotonic() < until:
            if command[0] != "run" and len(place.hub.requests()) >= answers:
                break
            time.sleep(0.002)
        process.kill()
    well = finish(process) == 0
    disturbed = not well or kind == "moved" or (fault is not None and fault.times == 0)
    place.hub.heal()
    return disturbed, well


@pytest.mark.slow
@pytest.mark.parametrize("served", ["cifar"], indirect=True)
def test_twenty_random_moments_end_in_the_same_records(served: Callable[[str], Place]) -> None:
    """Kills, cut bodies, moved branches and full disks, of which no trace is left in the results."""
    calm, rough, rng = served("calm"), served("rough"), random.Random(29)
    calm.call(*calm.fetch("suite:cifar"))
    start = time.monotonic()
    calm.call(*calm.run("cifar", *SHORT))
    seconds, disturbed = time.monotonic() - start, 0
    commands = {"fetch": rough.fetch("suite:cifar"), "run": rough.run("cifar", *SHORT)}
    for moment in range(20):
        name = "fetch" if moment < 14 else "run"
        if moment == 14:
            rough.call(*commands["fetch"])
        told, well = disturb(rough, commands[name], KINDS[moment % 4], rng, seconds)
        disturbed += told
        if well and name == "fetch":  # there is to be more to disturb
            lose(rough.folder / "data", rng)
        elif well:
            shutil.rmtree(rough.folder / "home")
            shutil.rmtree(rough.folder / "hf")
    assert disturbed >= 12
    assert data_of(rough) == data_of(calm)
    rough.call(*commands["run"])
    assert results(rough.folder / "home") == results(calm.folder / "home")


def lose(data: Path, rng: random.Random) -> None:
    """Remove one data set, as a user would."""
    shutil.rmtree(rng.choice(sorted(data.iterdir())))


def data_of(place: Place) -> dict[str, bytes]:
    """The fetched files, without what `fetch` keeps for itself."""
    return {path: content for path, content in files_in(place.folder / "data").items() if ".reliquant/" not in path}


def test_six_random_moments_of_a_fetch_end_in_the_same_files(tmp_path: Path) -> None:
    """In processes of their own, without the suite: the archive of NINCO, its list, and one shard."""
    pictures = {f"Caracal_caracal_caracal/{n}.jpg": bytes([n]) * 40_000 for n in range(6)}
    near, tin = "splits/imagenet1k/test_ninco.txt", "splits/cifar10/test_tin.txt"
    lists = {near: b"".join(b"%s -1\n" % path.encode() for path in pictures), tin: b"1.jpg -1\n"}
    contents = {"ninco": {"ninco.zip": zip_of(pictures)}, "openood-lists": {"splits.zip": zip_of(lists)}}
    with Hub() as hub:
        publish(hub, {**contents, "coco-pairs": {"test/0.tar": tar_of(pictures)}}, tmp_path / "downloads.yaml")
        place = Place(hub, tmp_path / "user", tmp_path, tmp_path / "downloads.yaml")
        rng = random.Random(11)
        ends = []
        for moment in range(6):
            ends.append(disturb_fetch(place, KINDS[moment % 4], rng))
            if ends[-1] == 0:
                lose(place.folder / "data", rng)
        assert ends.count(0) < 6
        assert fetching(place).wait(60) == 0
    assert data_of(place) == {
        "coco-pairs/0.tar": tar_of(pictures),
        **{f"openood/images_largescale/ninco/{path}": content for path, content in pictures.items()},
        "openood/benchmark_imglist/imagenet/test_ninco.txt": lists[near],
        "openood/benchmark_imglist/cifar10/test_tin.txt": lists[tin],
    }


LIMITED = """
import resource, runpy, sys
largest = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
runpy.run_module("benchmark", run_name="__main__", alter_sys=True)
"""


def fetching(place: Place, largest: int = resource.RLIM_INFINITY) -> subprocess.Popen[bytes]:
    """Start a fetch of the three in a process of its own."""
    command = [sys.executable, "-c", LIMITED, str(largest), "data", "fetch", "ninco", "coco-pairs", "--yes", "--quiet"]
    with (place.folder / "log").open("ab") as log:
        return subprocess.Popen(
            command, env={**os.environ, **place.environment}, cwd=place.folder, stdout=log, stderr=log
        )


def disturb_fetch(place: Place, kind: str, rng: random.Random) -> int:
    """As `disturb`, for a fetch in a process of its own."""
    if kind == "cut":
        place.hub.cut("/cdn/|/files/|/resolve", rng.randrange(1, 100_000), rng.randint(1, 6))
    if kind == "moved":
        place.hub.dataset("torch-uncertainty/Ninco").commit({"ninco.zip": b"another one"})
    process = fetching(place, rng.randrange(1_000, 100_000) if kind == "full" else resource.RLIM_INFINITY)
    if kind == "kill":
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0.3, 2))
        process.kill()
    status = process.wait(60)
    place.hub.heal()
    return status


ONCE = """
name: once
version: 1
models: [demo]
quantizations: [fp32]
data:
  imagenet: {catalogue: imagenet, templates: simple}
  val: {catalogue: imagenet-val, templates: simple}
  noisy: {catalogue: imagenet-c, templates: simple, corruptions: [fog], severities: [1]}
tasks:
  zero_shot:
    imagenet: {test: imagenet}
  corruption:
    imagenet: {clean: val, corrupted: noisy}
"""


def test_imagenet_is_embedded_once_for_all_its_roles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six images are `imagenet` and `imagenet-val`; six more are their one corrupted version."""
    monkeypatch.setenv("RELIQUANT_DATA", str(tmp_path / "data"))
    write_imagenet_folders(tmp_path / "data" / "imagenet" / "val", WNIDS)
    write_imagenet_c(tmp_path / "data" / "imagenet-c", WNIDS, ["fog"], severities=[1])
    suite = tmp_path / "once.yaml"
    suite.write_text(ONCE)
    made = run(make_plan(load_suite(str(suite))), tmp_path / "home")
    assert made.computed == 2
    assert made.forward_images == 12
    corruption = next(record for record in made.records if record.task == "corruption")
    assert corruption.metrics["corruption/imagenet/samples"] == 6
    assert "clean_accuracy" not in corruption.notes  # the ids pair
