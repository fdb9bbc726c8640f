"""The Dockerfile, read: what it copies exists and suffices for the wheel, and good practice is kept; without Docker."""

from __future__ import annotations

import fnmatch
import re
import tomllib

import pytest

from tests.docs.markdown import ROOT

KNOWN = {"FROM", "WORKDIR", "RUN", "COPY", "ARG", "ENV", "USER", "ENTRYPOINT", "CMD"}


def instructions() -> list[tuple[str, str]]:
    """(instruction, arguments), continued lines joined, comments removed."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def of(name: str) -> list[str]:
    return [arguments for instruction, arguments in instructions() if instruction == name]


def stage_copies() -> set[str]:
    """Files and folders of the repository that are copied."""
    return {word for each in of("COPY") if "--from=" not in each for word in each.split()[:-1]}


def test_every_instruction_is_known_and_the_first_names_a_base() -> None:
    assert {name for name, _ in instructions()} <= KNOWN
    assert instructions()[0][0] == "FROM"
    for base in of("FROM"):
        assert re.fullmatch(r"python:3\.\d+-slim-\w+( AS \w+)?", base), "a tag that names version and system"


def test_what_is_copied_exists_and_is_sent_to_the_builder() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    sent = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    assert ignored[0] == "*"
    assert stage_copies() == sent
    assert all((ROOT / name).exists() for name in sent)


def test_it_suffices_for_the_wheel() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    needed = {*project["tool"]["uv"]["build-backend"]["module-name"], "pyproject.toml", project["project"]["readme"]}
    needed |= {name for pattern in project["project"]["license-files"] for name in fnmatch.filter(["LICENSE"], pattern)}
    assert needed | {"constraints.txt"} == stage_copies()


def test_extras_and_python_are_ours() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    [extras] = [found[1] for each in of("RUN") if (found := re.search(r"\"\.\[([\w,-]+)\]\"", each))]
    assert set(extras.split(",")) <= project["optional-dependencies"].keys()
    named = {c.rpartition(" ")[2] for c in project["classifiers"]}
    assert {re.findall(r"python:(3\.\d+)", base)[0] for base in of("FROM")} <= named


def test_it_runs_as_nobody_special_in_the_forms_that_take_signals() -> None:
    assert of("USER") == ["reliquant"]
    assert of("ENTRYPOINT") == ['["reliquant"]']
    assert of("CMD") == ['["run", "demo"]']
    order = [name for name, _ in instructions()]
    assert order.index("USER") < order.index("ENTRYPOINT")
    assert not [each for each in of("RUN") if "sudo" in each or "apt-get" in each]
    for each in of("RUN"):
        assert "pip install" not in each or "--no-cache" in each


@pytest.mark.parametrize("folder", of("WORKDIR"))
def test_places_are_absolute(folder: str) -> None:
    assert folder.startswith("/")
