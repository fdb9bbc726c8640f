"""Suites from hostile and mistaken YAML: a valid suite or one SpecError that says what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmark.errors import InputError, SpecError, UnknownNameError
from benchmark.spec import SuiteSpec
from benchmark.spec.catalogue import load_catalogue
from benchmark.spec.suite import FOLDER, load_suite, narrow, suite_names

VALID = """
name: small
version: 1
models: [demo]
quantizations: [fp32, rtn-w4a8-channel-token-vision]
data:
  scenes: {source: demo, split: test}
  far: {source: demo, split: far_ood, text: none, limit: 50}
tasks:
  zero_shot: {scenes: {test: scenes}}
  ood: {scenes: {id: scenes, ood: far}}
"""


@pytest.fixture
def write(tmp_path: Path):  # type: ignore[no-untyped-def]
    """Writes a suite file and returns its path as text."""

    def put(text: str | bytes) -> str:
        path = tmp_path / "suite.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return put


def refused(path: str) -> str:
    with pytest.raises(SpecError) as caught:
        load_suite(path)
    message = str(caught.value)
    assert message.startswith(path)
    assert len(message.splitlines()) == 1
    assert len(message) < 1000
    return message


@pytest.mark.parametrize("name", suite_names())
def test_the_suites_that_come_along_are_valid(name: str) -> None:
    suite = load_suite(name)
    assert suite.name == name
    assert suite.description
    assert set(suite.headline) == set(dict.fromkeys(suite.headline))
    assert {key.split("/")[0] for key in suite.headline} <= set(suite.tasks)


def test_there_is_a_demo() -> None:
    assert "demo" in suite_names()
    assert (FOLDER / "demo.yaml").is_file()


def test_a_valid_file_is_read(write) -> None:  # type: ignore[no-untyped-def]
    suite = load_suite(write(VALID))
    assert suite.name == "small"
    assert suite.data["far"].text == "none"


def test_an_unknown_suite_suggests() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'demo'"):
        load_suite("dmeo")


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "mapping"),
        ("- a\n- b\n", "mapping"),
        ("just text", "mapping"),
        ("42", "mapping"),
        ("null", "mapping"),
        ("{", "YAML"),
        ("a: b: c", "line 1"),
        ("a: [1, 2", "YAML"),
        ("\tname: x", "YAML"),
        ("name: !!python/object/apply:os.system ['true']", "YAML"),
        ("name: !!python/name:os.system", "YAML"),
        ("name: !secret x", "YAML"),
        ("name: *nobody", "YAML"),
        ("--- 1\n--- 2\n", "YAML"),
        ("? [1, 2]\n: x", "YAML"),
        ("name: 2001-99-99", "YAML"),
        ("name: small\nname: other\nversion: 1", "name"),
        (f"version: {'9' * 5000}", "YAML"),
        (VALID.replace("version: 1", "version: 0x" + "f" * 5000), "out of range"),
        (VALID.replace("version: 1", "version: .inf"), "version"),
        (VALID.replace("version: 1", "version: 2001-01-01"), "version"),
        (VALID.replace("version: 1", "version: &v [*v]"), "line 3, column 10 (an alias that contains itself)"),
        (VALID + LAUGHS, "with its aliases written out"),
        (VALID.replace("models: [demo]", "models: demo"), "models"),
        (VALID.replace("models: [demo]", "modles: [demo]"), "modles: unknown field 'modles'. Did you mean 'models'"),
        (VALID.replace("split: test", "spilt: test"), "data.scenes.spilt"),
        (VALID.replace("{test: scenes}", "{test: [scenes, [far]]}"), "tasks.zero_shot.scenes"),
        (VALID.replace("test: scenes", "test: scnes"), "Did you mean 'scenes'"),
        (VALID.replace("limit: 50", "limit: 1e3"), "data.far.limit"),
        (VALID.replace("limit: 50", "limit: no"), "data.far.limit"),
        (VALID.replace("limit: 50", "options: {x: .nan}"), "data.far.options"),
        (VALID.replace("limit: 50", "options: &o {x: *o}"), "line 8, column 60 (an alias that contains itself)"),
        (VALID.replace("limit: 50", "options: {x: 2020-01-01}"), "data.far.options"),
        (VALID.replace("limit: 50", "options: {x: !!binary /w==}"), "data.far.options"),
        (VALID.replace("limit: 50", "options: {x: !!set {a, b}}"), "data.far.options"),
        (VALID.replace("limit: 50", "options: {x: 0x" + "f" * 5000 + "}"), "column 64 (a number is out of range)"),
        (VALID.replace("test: scenes", "test: scenes, options: {x: .inf}"), "tasks.zero_shot.scenes"),
        ("[" * 5000, "YAML"),
    ],
    ids=lambda value: value[-50:],
)
def test_hostile_and_mistaken_files(write, text: str, says: str) -> None:  # type: ignore[no-untyped-def]
    assert says in refused(write(text))


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"name: \x00", b"\x80abc", b"name: \x07"])
def test_files_that_are_not_text(write, content: bytes) -> None:  # type: ignore[no-untyped-def]
    refused(write(content))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    assert "no such file" in refused(str(tmp_path / "nothing.yaml"))
    (tmp_path / "folder.yaml").mkdir()
    assert "cannot be read" in refused(str(tmp_path / "folder.yaml"))


@given(st.lists(st.tuples(st.integers(0, len(VALID)), st.integers(0, 6), st.text(max_size=4)), max_size=4))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_to_a_suite_is_refused_clearly_or_harmless(
    tmp_path: Path, damage: list[tuple[int, int, str]]
) -> None:
    text = VALID
    for place, length, replacement in damage:
        text = text[:place] + replacement + text[place + length :]
    path = tmp_path / "suite.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        message = load_suite(str(path)).digest()
    except SpecError as error:
        message = str(error)
    assert len(message.splitlines()) == 1


def test_the_command_line_narrows_a_suite(write) -> None:  # type: ignore[no-untyped-def]
    suite = load_suite(write(VALID))
    narrowed = narrow(suite, models=["local-dir:x"], quantizations=["fp32"], tasks=["ood"], limit=7)
    assert [model.ref for model in narrowed.models] == ["local-dir:x"]
    assert narrowed.quantizations == ("fp32",)
    assert list(narrowed.tasks) == ["ood"]
    assert narrowed.limit == 7
    assert narrow(suite) == suite


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        ({"tasks": ["zero_shoot"]}, "Did you mean 'zero_shot'"),
        ({"limit": 0}, "--limit"),
        ({"limit": -3}, "--limit"),
        ({"models": [""]}, "--model"),
    ],
    ids=str,
)
def test_bad_choices_on_the_command_line(write, choice, says: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError) as caught:
        narrow(load_suite(write(VALID)), **choice)
    assert says in str(caught.value)


def test_a_data_set_and_what_is_based_on_it_can_be_pointed_at_a_folder(write, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    text = VALID.replace("data:\n", "data:\n  near: {base: far, limit: 3}\n")
    folder = tmp_path / "folder=with=signs"
    (folder / "cat").mkdir(parents=True)
    (folder / "cat" / "1.jpg").touch()
    suite = load_suite(write(text), data=[f"far={folder}"])
    for name in ("far", "near"):
        assert suite.data[name].path == str(folder)
        assert suite.data[name].source == "image_folder"
        assert suite.data[name].text == "none"
    assert suite.data["near"].limit == 3
    assert suite.data["scenes"].path is None


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ("scenes", "NAME=PATH"),
        ("scenes=", "NAME=PATH"),
        ("=x", "unknown data set"),
        ("scnes=/x", "Did you mean 'scenes'"),
    ],
)
def test_a_data_set_pointed_wrongly(write, item: str, says: str) -> None:  # type: ignore[no-untyped-def]
    for text in (VALID, VALID.replace("data:\n", "data:\n  5: {source: demo}\n")):
        with pytest.raises(InputError) as caught:
            load_suite(write(text), data=[item])
        assert says in str(caught.value)
    with pytest.raises(InputError):
        load_suite(write("data: [1]"), data=[item])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_files_of_any_editor_say_the_same(tmp_path: Path, encoding: str, ending: str) -> None:
    text = VALID.replace("name: small", 'name: small\ndescription: "d\xe9j\xe0 vu"')
    path = tmp_path / "suite.yaml"
    path.write_bytes(text.replace("\n", ending).encode(encoding))
    assert load_suite(str(path)) == SuiteSpec.model_validate(yaml.safe_load(text))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("split: test", "spilt: test", "line 7, column 26"),
        ("limit: 50", "limit: none", "line 8, column 51"),
        ("{test: scenes}", "{test: scnes}", "line 10, column 24"),
        ("models: [demo]", "models: [demo, {ref: ''}]", "line 4, column 17"),
        ("version: 1", "version: [1", "line 4, column 7"),
        ("name: small", "name: sm\x00ll", "line 2, column 9"),
    ],
)
def test_an_error_names_line_and_column(write, old: str, new: str, says: str) -> None:  # type: ignore[no-untyped-def]
    assert says in refused(write(VALID.replace(old, new)))


def test_text_in_another_encoding_is_named_by_its_place(tmp_path: Path) -> None:
    path = tmp_path / "suite.yaml"
    path.write_bytes(VALID.replace("name: small", "name: small\ndescription: caf\xe9").encode("latin-1"))
    assert "not UTF-8 text at line 3, column 17 (byte 0xe9); save it as UTF-8" in refused(str(path))


def test_an_error_in_a_catalogue_names_line_and_column(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("pets:\n  source: demo\n  limit: -1\n")
    with pytest.raises(SpecError, match=r"mine.yaml: pets: limit: .* \(line 3, column 3\)$"):
        load_catalogue([tmp_path / "mine.yaml"])
