"""Every command and code block of README, CONTRIBUTING and docs/ is run, or marked with the reason why not."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.docs.markdown import (
    PAGES,
    ROOT,
    Block,
    anchors,
    blocks,
    blocks_of,
    commands,
    indented_code,
    inline_commands,
    links,
    local,
)
from tests.docs.running import DocsError, Reader, check_command, check_extras, check_only, check_reliquant
from tests.layouts import write_image_folder

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's and others' deprecations: the reader sees none of them

LANGUAGES = {"bash", "python", "yaml", "toml", "text"}
COMMAND_LIKE = re.compile(r"^\s*(\$ |reliquant |pip |make |python |git |cd )", re.MULTILINE)
QUANTS = ("rtn-w8a8-vision", "rtn-w4a8-vision", "bnb-nf4-vision")


def page_id(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


every_page = pytest.mark.parametrize("page", PAGES, ids=page_id)


# --- what every page keeps ---------------------------------------------------------------------------------------


@every_page
def test_blocks_have_a_known_language_and_marks_a_reason(page: Path) -> None:
    for block in blocks(page):
        assert block.language in LANGUAGES, f"{block.place}: unknown language '{block.language}'"
        assert block.mark is None or len(block.reason) > 5, f"{block.place}: the mark gives no reason"
        if block.language == "text":
            found = COMMAND_LIKE.search(block.text)
            assert found is None, f"{block.place}: '{found and found[0]}' in a text block is not tested"


@every_page
def test_code_is_fenced(page: Path) -> None:
    """An indented block has no language, and no test would see it."""
    assert not indented_code(page.read_text(encoding="utf-8"))


@every_page
def test_blocks_that_are_not_run_could_be(page: Path) -> None:
    """Subcommands, options, make targets, modules and files exist."""
    for block in blocks(page):
        if block.mark is not None:
            try:
                check_only(block)
            except DocsError as error:
                pytest.fail(f"{block.place}: {error}")


@every_page
def test_commands_within_sentences_exist(page: Path) -> None:
    for command in inline_commands(page.read_text(encoding="utf-8")):
        if not re.search(r"[|\[]|\.\.\.", command):
            for words in commands(command):
                check_reliquant(words[1:], partial=True)


@every_page
def test_links_and_images_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for link in links(text):
        target, _, anchor = local(link).partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        base = ROOT if target.startswith("/") else page.parent
        place = (base / target.removeprefix("/")).resolve() if target else page
        assert place.exists(), f"{page.name}: {link}"
        if anchor and place.suffix == ".md":
            assert anchor in anchors(place.read_text(encoding="utf-8")), f"{page.name}: {link}"


@every_page
def test_extras_exist(page: Path) -> None:
    check_extras(page.read_text(encoding="utf-8"))


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages <= {link.partition("#")[0] for link in links(index)}


def section(page: str, heading: str) -> str:
    """Text below a heading of the second level."""
    return (ROOT / page).read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]


def test_where_to_put_a_change_names_what_exists() -> None:
    lines = section("docs/architecture.md", "Where do I put ...?").splitlines()
    rows = [line for line in lines if line.startswith("| ")][1:]
    assert len(rows) >= 10
    for row in rows:
        places = [place for place in re.findall(r"`([^`]+)`", row) if "/" in place or place.endswith(".toml")]
        assert places, row
        assert [place for place in places if not (ROOT / place).exists()] == []


def test_the_versions_to_raise_are_constants_that_exist() -> None:
    rows = section("CONTRIBUTING.md", "When a number changes, a version rises").splitlines()
    named = [found for row in rows if (found := re.search(r"`([A-Z_]+)` in `([\w/]+\.py)`", row))]
    assert len(named) >= 6
    for name, place in (found.groups() for found in named):
        source = (ROOT / place).read_text(encoding="utf-8")
        assert re.search(rf"^{name} = \d+$", source, re.MULTILINE), f"{place} has no {name}"


def test_the_numbers_in_plain_words_are_the_metrics_that_there_are() -> None:
    """Each key that the table names is a metric, and every headline metric of the six tasks is in it."""
    from benchmark.plugins import tasks

    lines = section("docs/conventions.md", "What the numbers mean").splitlines()
    rows = [line.split("|")[1:3] for line in lines if line.startswith("| ")][1:]
    assert all(meaning.strip().endswith(".") for _, meaning in rows)
    named = {key for name, _ in rows for key in re.findall(r"`(\w+)`", name)} | {"accuracy"}
    known = {metric.name.rsplit("/", 1)[-1] for _, task in tasks for metric in task.metrics}
    assert named <= known
    headlines = {task.name: [m.name for m in task.metrics if m.headline] for _, task in tasks}
    first = {name: found[0] for name, found in headlines.items() if found and name != "selective"}
    assert {name.rsplit("/", 1)[-1] for name in first.values()} <= named


# --- following the pages -----------------------------------------------------------------------------------------


MINE = """
name: mine
version: 1
models: ["local-dir:path/to/model"]
quantizations: [fp32, rtn-w4a8-vision]
data:
  photos: {source: image_folder, path: path/to/images}
tasks:
  zero_shot: {photos: {test: photos}}
"""


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages take for granted: images and a model below `path/to`, `mine.yaml`, and `mlruns` with results.

    The results are those of `mine.yaml` and, as the last run, the demo on a few images under three quantizations.
    """
    folder = tmp_path_factory.mktemp("docs")
    for name in ("images", "sketches", "other"):
        write_image_folder(folder / "path" / "to" / name, ["red panda", "fox", "badger"], 12)
    shutil.copytree(ROOT / "benchmark" / "demo" / "checkpoint", folder / "path" / "to" / "model")
    (folder / "mine.yaml").write_text(MINE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        visitor = Reader(folder, patch)
        visitor.reliquant(["run", "mine.yaml"])
        visitor.reliquant(["run", "demo", *(word for name in QUANTS for word in ("--quant", name))])  # what they mean
    return folder


@pytest.fixture
def reader(workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reader:
    """A reader in a workplace of their own."""
    shutil.copytree(workplace, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "RELIQUANT_DATA", "RELIQUANT_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # what is not in the cache is missing, at once
    return Reader(tmp_path, monkeypatch)


def follow(reader: Reader, page: Path, wanted: Callable[[Block], bool]) -> None:
    """Run the wanted blocks of a page, in order; what needs an extra that is not installed is left out."""
    for block in filter(wanted, blocks(page)):
        if "--engine ray" in block.text and find_spec("ray") is None:
            continue
        try:
            reader.follow(block)
        except Exception as error:
            raise DocsError(f"{block.place}: {type(error).__name__}: {error}") from error


@pytest.mark.parametrize("page", [p for p in PAGES if any(b.mark is None for b in blocks(p))], ids=page_id)
def test_following_a_page(page: Path, reader: Reader) -> None:
    follow(reader, page, lambda block: block.mark is None)


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if any(b.mark == "slow" for b in blocks(p))], ids=page_id)
def test_following_a_page_with_its_slow_blocks(page: Path, reader: Reader) -> None:
    follow(reader, page, lambda block: block.mark != "not run")


@pytest.mark.slow
@pytest.mark.parametrize("example", sorted((ROOT / "docs" / "examples").glob("*.py")), ids=lambda path: path.name)
def test_examples_run(example: Path, reader: Reader) -> None:
    """As a user would: two lines changed, and two to make it quick."""
    text = example.read_text(encoding="utf-8")
    for name, value in {
        "IMAGES": "'path/to/images'",
        "MODEL": "'local-dir:path/to/model'",
        "LIMIT": 24,
        "TRIALS": 7,
    }.items():
        text = re.sub(rf"^{name} = .*$", f"{name} = {value}", text, flags=re.MULTILINE)
    (reader.folder / example.name).write_text(text)
    reader.process([example.name])


# --- what the pages say that is printed --------------------------------------------------------------------------


def text_block(page: str, beginning: str) -> list[str]:
    """Lines of the text block of a page that begins so."""
    [found] = [b for b in blocks(ROOT / page) if b.language == "text" and b.text.startswith(beginning)]
    return found.text.splitlines()


Shape = tuple[str, list[list[str]], list[tuple[str, int]], list[str], set[str]]


def shape(lines: list[str]) -> Shape:
    """What a printed table is apart from its figures: title, heading, (name, figures) of each row, lines below it.

    Of the verdicts, which depend on the figures, only the beginning of their title; and the data sets that are named.
    """
    title, *rest = lines
    top = next(i for i, line in enumerate(rest) if line.startswith("run "))
    end = next(i for i, line in enumerate(rest) if line.startswith("* q"))
    rows: list[tuple[str, int]] = []
    for line in rest[top + 1 : end]:
        name, *figures = line.split() if line[0] != " " else ["", *line.split()]
        if len(figures) == len(rest[top].split()) - 1:  # the first line of a row
            rows.append((name, len(figures)))
        elif rows:
            rows[-1] = (rows[-1][0] + name, rows[-1][1])
    verdicts = next(i for i, line in enumerate(rest) if ": verdict against fp32" in line)
    last = next(i for i, line in enumerate(rest) if re.match(r"\d+ evaluations: ", line))
    counts = next(i for i, line in enumerate(rest) if re.match(r"[\w, -]+: [\d,]+ (x [\d,]+ )?images", line))
    kept = [*rest[end:verdicts], rest[verdicts].partition(", on ")[0], *rest[last:]]
    below = [re.sub(r"\d+", "N", line) for line in kept]
    sets = {*re.findall(r"[a-z][\w-]*", " ".join(rest[counts:last]))} - {"images", "classes", "without", "x"}
    return title, [line.split() for line in rest[: top + 1]], rows, below, sets


def test_the_table_of_the_readme_is_the_one_that_the_demo_prints(
    reader: Reader, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a few images, without timing: heading, rows and the lines below are the same, the figures are others."""
    monkeypatch.setenv("COLUMNS", "80")
    assert "$(BIN)/reliquant run demo\n" in (ROOT / "Makefile").read_text(encoding="utf-8")
    reader.reliquant(["run", "demo"])
    printed = capsys.readouterr().out.splitlines()
    written = text_block("README.md", "demo, demo: value and change")
    assert shape(written) == shape(printed)
    assert len(shape(written)[2]) == 8
    assert len(shape(written)[4]) == 12


@pytest.mark.parametrize("suite", ["paper-small", "paper"])
def test_what_the_study_costs_is_what_validate_says(
    suite: str, reader: Reader, capsys: pytest.CaptureFixture[str]
) -> None:
    """All but the speed of the machine that runs the test."""
    reader.reliquant(["validate", suite])
    said = re.compile(r"(?<=roughly )[\d,.]+ \w+(?= of forward passes on this CPU)")
    printed = [said.sub("...", line) for line in capsys.readouterr().out.splitlines()]
    written = text_block("docs/reproduce-the-study.md", f"suite '{suite}' is valid")
    assert printed[: len(written)] == written
    assert len(written) > 8


# --- the tests of the tests --------------------------------------------------------------------------------------

PAGE = """
<!-- not run: needs a cluster -->

```bash
ray start --head
```
text
```python
x = 1
```
<!-- slow -->
```bash
reliquant run demo   # all of it
```
"""


def test_blocks_are_found_with_their_marks() -> None:
    found = list(blocks_of(PAGE))
    assert [(b.language, b.mark, b.reason) for b in found] == [
        ("bash", "not run", "needs a cluster"),
        ("python", None, ""),
        ("bash", "slow", ""),
    ]
    assert found[1].text == "x = 1"


def test_commands_are_split_like_a_shell_does() -> None:
    script = "reliquant run 'a b' \\\n  --quant x   # why\n\ncd y && make demo\n"
    assert commands(script) == [["reliquant", "run", "a b", "--quant", "x"], ["cd", "y"], ["make", "demo"]]
    assert commands("python - <<'END' | curl x\nrm y\nEND\npip z") == [
        ["python", "-", "<<END"],
        ["curl", "x"],
        ["pip", "z"],
    ]


def test_indented_code_is_found_but_not_lists_nor_paragraphs() -> None:
    assert indented_code("text\n\n    code\n    more\n") == ["    code", "    more"]
    assert indented_code("- item\n\n    still the item\n") == []
    assert indented_code("a line\n    that goes on\n") == []


def test_links_in_code_are_not_links() -> None:
    assert links('[a](b.md#c) `[x](y)` ![d](e.png) <img src="f.svg">') == ["b.md#c", "e.png", "f.svg"]


@pytest.mark.parametrize(
    "command",
    [
        "reliquant rnu demo",
        "reliquant run demo --lmit 3",
        "reliquant list models data",
        "make dmeo",
        "python -m tests.nothing",
        "python docs/examples/nothing.py",
        "pip install 'reliquant[everything]'",
        "pytest tests/nothing.py",
        "frobnicate",
    ],
)
def test_wrong_commands_are_found(command: str) -> None:
    with pytest.raises(DocsError):
        check_command(commands(command)[0])


@pytest.mark.parametrize(
    "command",
    [
        "reliquant run SUITE --include NAME.py --quant rtn-w4",
        "reliquant new task NAME",
        "RELIQUANT_HOME=x .venv/bin/reliquant run --help",
        "make demo PYTHON=python3.12",
        "python -m tests.parity",
        "pip install 'reliquant[search-ui,torchao]'",
    ],
)
def test_right_commands_pass(command: str) -> None:
    check_command(commands(command)[0])
