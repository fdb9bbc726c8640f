"""One file over HTTP: what arrives is what the server has, whatever happens on the way."""

from __future__ import annotations

import errno
import random
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmark.download import transfer, writing
from benchmark.download.hosts import stream
from benchmark.download.refusals import SourceError
from benchmark.download.transfer import Network, Target, asked_wait, read_note, receive
from benchmark.errors import StorageError
from benchmark.utils import progress
from tests.unit.download.server import Server, serving

CONTENT = random.Random(0).randbytes(100_000)


def target(server: Server, path: str = "f.tar", size: int | None = len(CONTENT), summed: bool = True) -> Target:
    return Target(path, server.at(path), server.at(path), bytes=size, summed=summed)


@contextmanager
def said() -> Iterator[list[str]]:
    """The messages of the block."""

    class Heard(progress.Silent):
        def message(self, text: str) -> None:
            """Keep it."""
            found.append(text)

    found: list[str] = []
    with progress._showing(Heard()):
        yield found


def test_a_file_arrives_as_it_is(server: Server, network: Network, tmp_path: Path) -> None:
    server.put("f.tar", CONTENT)
    assert receive(target(server), tmp_path / "f.part", network) is False
    assert (tmp_path / "f.part").read_bytes() == CONTENT
    assert read_note(tmp_path / "f.part").total == len(CONTENT)


def test_a_cut_body_goes_on_where_it_ended(server: Server, network: Network, tmp_path: Path) -> None:
    server.put("f.tar", CONTENT, cuts=[30_000, 1, 50_000])
    with said() as messages:
        assert receive(target(server), tmp_path / "f.part", network) is True
    assert (tmp_path / "f.part").read_bytes() == CONTENT
    assert [entry[1] for entry in server.log] == [None, "bytes=30000-", "bytes=30001-", "bytes=80001-"]
    assert len(messages) == 3
    assert "trying again" in messages[0]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.integers(0, 3000).map(lambda size: CONTENT[:size]),
    cuts=st.lists(st.integers(0, 1200), max_size=8),
    ranges=st.booleans(),
    length=st.booleans(),
    etag=st.sampled_from(['"x"', 'W/"x"', None]),
    known=st.booleans(),
)
def test_any_cuts_end_in_the_same_file(
    content: bytes,
    cuts: list[int],
    ranges: bool,
    length: bool,
    etag: str | None,
    known: bool,
    tmp_path_factory: pytest.TempPathFactory,
    network: Network,
) -> None:
    """Without a length or a known size nobody can tell a cut from an end, so one of them is there."""
    part = tmp_path_factory.mktemp("cuts") / "f.part"
    with serving() as server:
        server.put("f.tar", content, cuts=list(cuts), ranges=ranges, length=length or not known, etag=etag)
        for _ in range(4):  # without ranges or progress a call may give up; the same command goes on
            try:
                receive(target(server, size=len(content) if known else None), part, network)
                break
            except SourceError:
                continue
        assert part.read_bytes() == content


@pytest.mark.parametrize("if_range", [True, False], ids=["looks at If-Range", "ignores If-Range"])
@pytest.mark.parametrize("longer", [0, 500])
def test_a_file_that_changed_in_between_is_never_spliced(
    server: Server, network: Network, tmp_path: Path, if_range: bool, longer: int
) -> None:
    part, other = tmp_path / "f.part", CONTENT[::-1] + b"x" * longer
    page = server.put("f.tar", CONTENT, cuts=[40_000] + [0] * 4)
    with pytest.raises(SourceError):
        receive(target(server, size=None), part, network)
    assert part.stat().st_size == 40_000
    page.content, page.etag, page.if_range = other, '"2"', if_range
    receive(target(server, size=None), part, network)
    assert part.read_bytes() == other


def test_another_date_is_another_file_where_there_is_no_etag(server: Server, network: Network, tmp_path: Path) -> None:
    old, new = "Mon, 01 Jun 2026 10:00:00 GMT", "Tue, 02 Jun 2026 10:00:00 GMT"
    page = server.put("f.tar", CONTENT, cuts=[10] + [0] * 4, etag=None, modified=old)
    with pytest.raises(SourceError):
        receive(target(server, size=None), tmp_path / "f.part", network)
    page.content, page.modified = CONTENT[::-1], new
    receive(target(server, size=None), tmp_path / "f.part", network)
    assert (tmp_path / "f.part").read_bytes() == CONTENT[::-1]


def test_a_part_without_a_sum_is_not_continued_from_another_source(
    server: Server, network: Network, tmp_path: Path
) -> None:
    part = tmp_path / "f.part"
    server.put("a", CONTENT, cuts=[10_000] + [0] * 4)
    server.put("b", CONTENT[::-1])
    with pytest.raises(SourceError):
        receive(target(server, "a"), part, network)
    receive(target(server, "b", summed=False), part, network)
    assert part.read_bytes() == CONTENT[::-1]


def test_a_part_with_a_sum_is_continued_from_the_next_source(server: Server, network: Network, tmp_path: Path) -> None:
    part = tmp_path / "f.part"
    server.put("a", CONTENT, cuts=[10_000] + [0] * 4)
    server.put("b", CONTENT, etag='"of b"')
    with pytest.raises(SourceError, match="5 times"):
        receive(target(server, "a"), part, network)
    receive(target(server, "b"), part, network)
    assert part.read_bytes() == CONTENT
    assert server.log[-1][1] == "bytes=10000-"


def test_a_finished_part_is_not_asked_for_again(server: Server, network: Network, tmp_path: Path) -> None:
    (tmp_path / "f.part").write_bytes(CONTENT)
    receive(target(server), tmp_path / "f.part", network)
    assert server.log == []


def test_416_with_our_size_is_the_end_and_with_another_a_new_beginning(
    server: Server, network: Network, tmp_path: Path
) -> None:
    part = tmp_path / "f.part"
    page = server.put("f.tar", CONTENT)
    part.write_bytes(CONTENT)
    receive(target(server, size=None), part, network)
    assert [entry[2] for entry in server.log] == [416]
    page.content = CONTENT[:500]
    receive(target(server, size=None), part, network)
    assert part.read_bytes() == CONTENT[:500]


@pytest.mark.parametrize("status", [403, 429, 500, 503])
def test_a_server_that_asks_to_wait_is_waited_for(
    server: Server, network: Network, pauses: list[float], tmp_path: Path, status: int
) -> None:
    server.put("f.tar", CONTENT, answers=[(status, {"Retry-After": "7"}, b""), (status, {}, b"")])
    with said() as messages:
        receive(target(server), tmp_path / "f.part", network)
    assert pauses[0] == 7
    assert len(pauses) == 2
    assert f"the server answers {status}; trying again in 7.0 s (try 2 of 5)" in messages[0]


def test_a_server_that_asks_for_too_long_a_wait_is_left(
    server: Server, network: Network, pauses: list[float], tmp_path: Path
) -> None:
    server.put("f.tar", CONTENT, answers=[(429, {"Retry-After": "3600"}, b"")])
    with pytest.raises(SourceError, match="answers 429, and asks to wait 1 h"):
        receive(target(server), tmp_path / "f.part", network)
    assert pauses == []


def test_waiting_is_bounded(server: Server, network: Network, pauses: list[float], tmp_path: Path) -> None:
    server.put("f.tar", CONTENT, answers=[(503, {}, b"")] * 99)
    with pytest.raises(SourceError, match="answers 503, 5 times"):
        receive(target(server), tmp_path / "f.part", network)
    assert len(server.log) == 5
    assert sum(pauses) <= 60
    server.put("g", CONTENT, answers=[(403, {}, b"")] * 99)
    with pytest.raises(SourceError, match="answers 403, 3 times"):
        receive(target(server, "g"), tmp_path / "g.part", network)


def test_a_server_without_ranges_that_always_cuts_is_left(server: Server, network: Network, tmp_path: Path) -> None:
    server.put("f.tar", CONTENT, ranges=False, cuts=[10_000, 20_000, 5_000] * 99)
    with pytest.raises(SourceError, match=r"ended after|broke"):
        receive(target(server), tmp_path / "f.part", network)
    assert len(server.log) == 6


def test_a_missing_file_is_not_asked_for_twice(server: Server, network: Network, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="answers 404"):
        receive(target(server), tmp_path / "f.part", network)
    assert len(server.log) == 1


def test_retry_after_may_be_a_date() -> None:
    later = datetime.now(UTC) + timedelta(seconds=90)
    assert asked_wait(format_datetime(later)) == pytest.approx(90, abs=5)
    assert asked_wait(format_datetime(datetime.now(UTC) - timedelta(days=1))) == 0
    assert [asked_wait(text) for text in (None, "", "soon", "-3")] == [None] * 4


@pytest.mark.parametrize(
    "answer",
    [
        (200, {"Content-Type": "text/html; charset=utf-8"}, b"<p>quota"),
        (200, {"Content-Type": "application/zip"}, b"\n <!DOCTYPE html><html><body>Too many users"),
        (200, {}, b"\xef\xbb\xbf<HTML>"),
    ],
    ids=["type", "doctype", "byte order mark"],
)
def test_a_web_page_is_never_the_file(
    server: Server, network: Network, tmp_path: Path, answer: tuple[int, dict[str, str], bytes]
) -> None:
    server.put("f.tar", CONTENT, answers=[answer])
    with pytest.raises(SourceError, match="a web page came"):
        receive(target(server, size=None), tmp_path / "f.part", network)
    assert not (tmp_path / "f.part").exists() or (tmp_path / "f.part").read_bytes() == b""


def test_a_web_page_that_breaks_off_is_not_kept(server: Server, network: Network, tmp_path: Path) -> None:
    server.put("f.tar", b"<html><body>" + b"x" * 5000, cuts=[100])
    with pytest.raises(SourceError, match="a web page came"):
        receive(target(server, size=None), tmp_path / "f.part", network)
    assert (tmp_path / "f.part").read_bytes() == b""


def test_another_size_is_refused_before_a_byte_is_written(server: Server, network: Network, tmp_path: Path) -> None:
    server.put("f.tar", CONTENT)
    with pytest.raises(SourceError, match="has 100,000 bytes, expected 99,999"):
        receive(target(server, size=99_999), tmp_path / "f.part", network)
    assert not (tmp_path / "f.part").exists()


def test_redirects_are_followed_with_the_range_and_without_the_token(
    server: Server, network: Network, tmp_path: Path
) -> None:
    part = tmp_path / "f.part"
    part.write_bytes(CONTENT[:1000])
    server.put("there", CONTENT)
    moved = {"Location": server.at("there")}
    server.put("f.tar", b"", answers=[(302, moved, b"")] * 2)
    receive(target(server), part, network)
    assert part.read_bytes() == CONTENT
    assert server.log[-1][:3] == ("/there", "bytes=1000-", 206)
    server.put("loop", b"", answers=[(302, {"Location": server.at("loop")}, b"")] * 99)
    with pytest.raises(SourceError, match="redirects"):
        receive(target(server, "loop"), tmp_path / "g.part", network)


def test_what_the_hub_says_is_passed_on(server: Server, network: Network, pauses: list[float], tmp_path: Path) -> None:
    server.put("f.tar", CONTENT, answers=[(403, {"X-Error-Code": "GatedRepo"}, b"")])
    with pytest.raises(SourceError, match=r"gated; accept its terms .*hf auth login"):
        receive(target(server), tmp_path / "f.part", network)
    assert pauses == []


def test_a_server_that_is_not_there_is_one_line(network: Network, tmp_path: Path) -> None:
    with serving() as gone:
        url = gone.at("f.tar")
    with pytest.raises(SourceError, match="refused, 5 times") as raised:
        receive(Target("f.tar", url, url), tmp_path / "f.part", network)
    assert len(str(raised.value)) < 200


def test_a_full_disk_is_one_line_and_what_came_stays(
    server: Server, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`append` is what writes: it gets a file that takes 30,000 bytes and then no more, as a full disk does."""
    part = tmp_path / "f.part"
    server.put("f.tar", CONTENT)
    real = writing.append

    def full(file: object, content: bytes) -> None:
        room = 30_000 - part.stat().st_size
        real(file, content[:room])  # type: ignore[arg-type]
        if len(content) > room:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(transfer, "append", full)
        with pytest.raises(StorageError, match="No space left on device; what is finished is kept: make room"):
            receive(target(server), part, network)
    assert part.read_bytes() == CONTENT[:30_000]
    receive(target(server), part, network)
    assert part.read_bytes() == CONTENT
    assert server.log[-1][1] == "bytes=30000-"


def test_a_host_gives_two_streams_and_the_third_waits(server: Server, tmp_path: Path) -> None:
    waited: list[float] = []

    class Enough(Exception):
        pass

    def pause(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            raise Enough

    with stream("http://one.example/a"), stream("http://one.example/b"), said() as messages:
        with stream("http://two.example/c"):
            pass
        with pytest.raises(Enough), stream("http://one.example/c", pause):
            pass
    assert len(messages) == 1
    assert "one.example: 2 other downloads from it" in messages[0]
    with stream("http://one.example/c", pause):  # they have ended
        assert len(waited) == 3


def test_where_no_lock_can_be_made_there_is_no_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RELIQUANT_CACHE", str(tmp_path / "file"))
    with stream("http://x.example/"), stream("http://x.example/"), stream("http://x.example/"):
        pass


def test_a_session_may_be_shared(server: Server, tmp_path: Path) -> None:
    server.put("a", CONTENT)
    with requests.Session() as session:
        network = Network(session)
        for name in ("1", "2"):
            receive(target(server, "a"), tmp_path / name, network)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes() == CONTENT
