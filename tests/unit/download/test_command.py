"""`reliquant data check` and `fetch` as a user meets them."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from benchmark.cli import completion
from benchmark.cli import data as command
from benchmark.cli.app import app
from benchmark.errors import ReliquantError
from tests.unit.download.server import Server, sha256
from tests.unit.download.test_archives import FILES, contents, tar

PLAIN = random.Random(2).randbytes(3000)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def entries(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The user's own downloads: `cifar10-c` in the place of the shipped one, and `hand`, which is got by hand."""
    made = tar(tmp_path / "made.tar", FILES).read_bytes()
    server.put("c.tar", made)
    server.put("plain.bin", PLAIN)
    found = {
        "cifar10-c": {
            **{
                "about": "small",
                "terms": "CC BY 4.0",
                "terms_url": "https://example.org/terms",
                "folder": "CIFAR-10-C",
            },
            "provides": ["cifar10-c"],
            "files": {
                "c.tar": {
                    **{"bytes": len(made), "sha256": sha256(made), "unpack": {"strip": 1}},
                    "sources": [{"url": server.at("c.tar")}],
                },
                "plain.bin": {"bytes": 3000, "sha256": sha256(PLAIN), "sources": [{"url": server.at("plain.bin")}]},
            },
        },
        "hand": {
            **{"about": "by hand", "terms": "ask its authors", "folder": "hand"},
            "files": {
                "h.tar": {
                    **{"bytes": len(made), "sha256": sha256(made), "unpack": {}},
                    "sources": [{"drive": "1SrPF0rgXKy_4z1kXsIYJt"}],
                }
            },
        },
    }
    write(found, tmp_path / "downloads.yaml", monkeypatch)
    return found


def write(entries: dict[str, Any], path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_text(yaml.safe_dump(entries), encoding="utf-8")
    monkeypatch.setenv("RELIQUANT_DOWNLOADS", str(path))


def run(*words: object, stdin: str = "") -> Result:
    return CliRunner().invoke(app, ["data", *map(str, words)], input=stdin)


def refused(*words: object) -> str:
    """The one line that an error gives."""
    result = run(*words)
    assert isinstance(result.exception, ReliquantError), result.output
    line = str(result.exception)
    assert "\n" not in line
    return line


def test_check_then_fetch_then_check(entries: dict[str, Any], root: Path) -> None:
    before = run("check", "cifar10-c", "--to", root)
    assert before.exit_code == 1
    assert "cifar10-c: 0 of 2 files here, 13.2 kB to fetch" in before.stdout
    assert "terms    CC BY 4.0 (https://example.org/terms)" in before.stdout
    assert f"Get it: reliquant data fetch cifar10-c --to {root}" in before.stdout
    assert not root.exists()
    done = run("fetch", "cifar10-c", "--to", root, "--yes")
    assert done.exit_code == 0, done.output
    assert "terms: CC BY 4.0" in done.stderr
    assert f"cifar10-c: here (2 files, {root / 'CIFAR-10-C'})" in done.stdout
    assert f"export RELIQUANT_DATA={root}" in done.stdout
    found = {n: c for n, c in contents(root / "CIFAR-10-C").items() if not n.startswith(".")}
    assert found == {n.removeprefix("top/"): c for n, c in FILES.items()} | {"plain.bin": PLAIN}
    after = run("check", "cifar10-c", "--to", root)
    assert (after.exit_code, "cifar10-c: here (2 files" in after.stdout) == (0, True)
    again = run("fetch", "cifar10-c", "--to", root)  # nothing to accept, since nothing is fetched
    assert (again.exit_code, "nothing to fetch, all of it is here: cifar10-c" in again.stdout) == (0, True)


def test_terms_come_before_the_first_byte(
    entries: dict[str, Any], root: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = refused("fetch", "cifar10-c", "--to", root, "--only", "plain.bin")
    assert f"accept them with: reliquant data fetch cifar10-c --to {root} --only plain.bin --yes" in line
    assert server.log == []
    monkeypatch.setattr(command, "_can_ask", lambda: True)
    result = run("fetch", "cifar10-c", "--to", root, stdin="no\n")
    assert "the terms were not accepted; nothing was fetched" in str(result.exception)
    assert "Fetch under these terms? [y/N]" in result.stderr
    assert server.log == []
    assert run("fetch", "cifar10-c", "--to", root, stdin="").exit_code != 0  # the end of the input is no yes
    assert run("fetch", "cifar10-c", "--to", root, stdin="y\n").exit_code == 0


def test_by_hand_then_from_the_archive(entries: dict[str, Any], root: Path, tmp_path: Path, server: Server) -> None:
    first = run("fetch", "hand", "cifar10-c", "--to", root, "--yes")
    assert first.exit_code == 3
    assert "hand: h.tar has to be got by hand" in first.stdout
    assert "https://drive.google.com/file/d/1SrPF0rgXKy_4z1kXsIYJt/view" in first.stdout
    assert f"10,240 bytes, sha256 {sha256((tmp_path / 'made.tar').read_bytes())}" in first.stdout
    assert f"reliquant data fetch hand --to {root} --from-archive h.tar" in first.stdout
    assert str(root / "hand") in first.stdout
    assert "cifar10-c: here" in first.stdout
    own = tmp_path / "made.tar"  # known by its sum
    second = run("fetch", "hand", "--to", root, "--yes", "--from-archive", own)
    assert second.exit_code == 0, second.output
    assert own.exists()
    assert {n for n in contents(root / "hand") if not n.startswith(".")} == set(FILES)


def test_json(entries: dict[str, Any], root: Path) -> None:
    (line,) = run("check", "hand", "--to", root, "--json").stdout.splitlines()
    assert json.loads(line) | {"bytes_free": 0} == {
        **{"download": "hand", "complete": False, "own": False, "provides": [], "for": [], "bytes_free": 0},
        "files": [{"file": "h.tar", "status": "by hand", "bytes": 10240, "to_fetch": 10240}],
        **{"bytes_to_fetch": 10240, "bytes_needed": 20480, "folder": str(root / "hand")},
        **{"terms": "ask its authors", "terms_url": None},
    }
    result = run("fetch", "hand", "cifar10-c", "--to", root, "--yes", "--json")
    hand, cifar = map(json.loads, result.stdout.splitlines())
    assert hand["missing"][0]["by_hand"] == ["https://drive.google.com/file/d/1SrPF0rgXKy_4z1kXsIYJt/view"]
    assert cifar == {
        **{"download": "cifar10-c", "folder": str(root / "CIFAR-10-C"), "missing": []},
        "got": ["c.tar", "plain.bin"],
    }


def test_a_suite_is_what_it_reads(entries: dict[str, Any], root: Path) -> None:
    found = run("check", "cifar", "--to", root)
    assert found.exit_code == 1
    assert "for      suite cifar: cifar10-c" in found.stdout
    assert run("check", "data:cifar10-c", "--to", root).stdout.startswith("cifar10-c: 0 of 2 files here")
    assert run("check", "demo", "--to", root).exit_code == 0  # embedded


def test_a_suite_of_the_users_own_with_data_that_nothing_can_fetch(
    entries: dict[str, Any], root: Path, tmp_path: Path
) -> None:
    suite = {
        **{"name": "own", "version": 1, "models": ["demo"], "quantizations": ["fp32"]},
        "data": {"c": {"catalogue": "cifar10-c"}, "pets": {"source": "image_folder", "path": "$DATA/pets"}},
        "tasks": {"zero_shot": {"pets": {"test": "pets"}}},
    }
    path = tmp_path / "own-suite.yaml"
    path.write_text(yaml.safe_dump(suite))
    found = run("check", path, "--to", root)
    assert f"for      suite {path}: c" in found.stdout
    assert "pets: MISSING at $DATA/pets; it cannot be fetched from here" in found.stdout
    run("fetch", path, "--to", root, "--yes")
    assert run("check", path, "--to", root).exit_code == 1
    (root / "pets").mkdir()
    assert run("check", path, "--to", root).exit_code == 0


def test_what_is_needed_is_fetched_first(
    entries: dict[str, Any], root: Path, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.put("first.bin", PLAIN)
    file = {"bytes": 3000, "sha256": sha256(PLAIN), "sources": [{"url": server.at("first.bin")}]}
    first = {"about": "a", "terms": "t", "folder": "first", "files": {"first.bin": file}}
    own = {"cifar10-c": entries["cifar10-c"] | {"needs": ["first"]}, "first": first}
    write(own, tmp_path / "own.yaml", monkeypatch)
    assert "for      needed by cifar10-c" in run("check", "cifar10-c", "--to", root).stdout
    assert run("fetch", "cifar10-c", "--to", root, "--yes").exit_code == 0
    assert [entry[0] for entry in server.log] == ["/first.bin", "/c.tar", "/plain.bin"]


def test_all_is_what_there_is(entries: dict[str, Any], root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "catalogue", lambda paths: dict(list(real(paths).items())[-1:]))
    found = run("check", "--to", root)
    assert found.stdout.startswith("hand: 0 of 1 files here")


real = command.catalogue


def test_the_folder_is_that_of_the_environment(
    entries: dict[str, Any], root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert "no folder for data: set RELIQUANT_DATA to one, or give --to FOLDER" in refused("check", "hand")
    monkeypatch.setenv("RELIQUANT_DATA", str(root))
    assert f"to       {root / 'hand'}" in run("check", "hand").stdout
    (tmp_path / "file").write_text("")
    assert "is a file; give a folder" in refused("check", "hand", "--to", tmp_path / "file")


def test_wrong_names_are_one_line_with_near_ones(entries: dict[str, Any], root: Path, tmp_path: Path) -> None:
    assert "Did you mean 'cifar10-c'?" in refused("check", "cifar10c", "--to", root)
    assert "unknown suite 'nothing'" in refused("check", "suite:nothing", "--to", root)
    assert "unknown suite, data set or download 'model:x'" in refused("check", "model:x", "--to", root)
    assert "unknown suite, data set or download 'paper-c'" in refused("check", "data:paper-c", "--to", root)
    assert "Did you mean 'plain.bin'?" in refused("fetch", "cifar10-c", "--to", root, "--only", "plan.bin")
    assert "no such file" in refused("fetch", "hand", "--to", root, "--from-archive", tmp_path / "none")
    assert "no such file" in refused("check", tmp_path / "none.yaml", "--to", root)


def test_a_wrong_own_file_is_one_line(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write({"mine": {"about": "x"}}, tmp_path / "own.yaml", monkeypatch)
    assert "own.yaml: mine: terms: Field required" in refused("check", "--to", root)


def test_no_room_is_said_before_the_first_byte(
    entries: dict[str, Any], root: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`shutil.disk_usage` is what is asked."""
    usage = shutil.disk_usage(root.parent)._replace(free=50_005_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert f"{root}: 50.0 MB free, 20.5 kB needed: NOT ENOUGH" in run("check", "cifar10-c", "--to", root).stdout
    line = refused("fetch", "cifar10-c", "--to", root, "--yes")
    assert f"cifar10-c: needs 20.5 kB in {root}, where 50.0 MB are free; make room" in line
    assert server.log == []


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit there")
def test_a_disk_that_fills_up_is_one_line_and_resumes(entries: dict[str, Any], root: Path, server: Server) -> None:
    """The system itself refuses to write more than 20,000 bytes to a file (RLIMIT_FSIZE), as a quota does."""
    big = random.Random(3).randbytes(200_000)
    server.put("plain.bin", big)
    own = Path(os.environ["RELIQUANT_DOWNLOADS"])
    entries["cifar10-c"]["files"]["plain.bin"] |= {"bytes": len(big), "sha256": sha256(big)}
    own.write_text(yaml.safe_dump(entries), encoding="utf-8")
    words = ["data", "fetch", "cifar10-c", "--to", str(root), "--yes", "--quiet"]
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        f"from benchmark.cli.app import main; sys.argv = ['reliquant', *{words}]; main()"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=100)
    assert ended.returncode == 2
    assert "File too large; what is finished is kept: make room and run the same command again" in ended.stderr
    assert "Traceback" not in ended.stderr
    part = root / "CIFAR-10-C" / ".reliquant" / "plain.bin.part"
    assert part.read_bytes() == big[:20_000]
    assert run(*words[1:]).exit_code == 0
    assert (root / "CIFAR-10-C" / "plain.bin").read_bytes() == big
    assert server.log[-1][1] == "bytes=20000-"


def test_ctrl_c_is_one_line_and_resumes(
    entries: dict[str, Any], root: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.pages["/plain.bin"].cuts = [1000]

    def stop(_: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("benchmark.download.transfer._wait", lambda *_: stop(0))
        stopped = run("fetch", "cifar10-c", "--to", root, "--yes")
    assert stopped.exit_code == 130
    assert "stopped; what is finished is kept. Go on with: reliquant" in stopped.stderr
    assert run("fetch", "cifar10-c", "--to", root, "--yes").exit_code == 0
    assert server.log[-1][1] == "bytes=1000-"


def test_how_to_get_a_file_by_hand_is_told_without_a_question(entries: dict[str, Any], root: Path) -> None:
    told = run("fetch", "hand", "--to", root)
    assert (told.exit_code, "has to be got by hand" in told.stdout) == (3, True)
    assert "terms: ask its authors" in told.stderr


def test_what_to_fetch_must_be_said(entries: dict[str, Any], root: Path) -> None:
    assert run("fetch", "--to", root).exit_code == 2
    assert not root.exists()


def test_commands_say_which_of_two_is_meant(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`imagenet` is a suite and a download."""
    manual = {"unverified": "none published", "sources": [{"manual": "ask"}]}
    entry = {"about": "a", "terms": "t", "folder": "i", "files": {"v.tar": manual}}
    write({"imagenet": entry}, tmp_path / "own.yaml", monkeypatch)
    found = run("check", "data:imagenet", "--to", root).stdout
    assert "v.tar (unknown size, by hand, no sum published)" in found
    assert f"Get it: reliquant data fetch data:imagenet --to {root}" in found
    told = run("fetch", "data:imagenet", "--to", root, "--yes").stdout
    assert f"reliquant data fetch data:imagenet --to {root} --from-archive v.tar" in told
    (tmp_path / "v.tar").write_bytes(b"1")
    done = run("fetch", "data:imagenet", "--to", root, "--yes", "--from-archive", tmp_path / "v.tar")
    assert (done.exit_code, "v.tar: not verified: none published" in done.stdout) == (0, True)


def test_completion_knows_the_names() -> None:
    assert {"imagenet", "imagenet-c", "imagenet-val"} <= set(completion.data_names("imagenet"))
    assert completion.data_names("cif")[0] == "cifar"
