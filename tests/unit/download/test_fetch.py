"""A download from its sources to its folder, and what `state` says of it on the way."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from benchmark.download import archives as unpacking
from benchmark.download import fetch as fetching
from benchmark.download import sums
from benchmark.download.fetch import Outcome, fetch, matched
from benchmark.download.hub import HubFile, Listing, Unreachable
from benchmark.download.items import remembering
from benchmark.download.places import Places, read_marker
from benchmark.download.refusals import SourceError
from benchmark.download.schema import Download, Source, Unpack
from benchmark.download.state import FileState, State, room, state
from benchmark.download.transfer import Network
from benchmark.errors import InputError
from tests.unit.download.server import Server, sha256
from tests.unit.download.test_archives import FILES, contents, tar

PLAIN = random.Random(1).randbytes(5000)


@pytest.fixture
def archive(tmp_path: Path) -> bytes:
    """A tar of `FILES`."""
    return tar(tmp_path / "made.tar", FILES).read_bytes()


def download(server: Server, files: dict[str, Any], **about: Any) -> dict[str, Download]:
    """A catalogue with one entry, `it`: name -> content, or the fields of a file."""
    fields = dict(files)
    for name, given in files.items():
        if isinstance(given, bytes):
            server.put(name, given)
            fields[name] = {"bytes": len(given), "sha256": sha256(given), "sources": [{"url": server.at(name)}]}
    entry = {"about": "a", "terms": "t", "folder": "it", "files": fields} | about
    return {"it": Download.model_validate(entry)}


def got(root: Path, known: dict[str, Download], network: Network, **options: Any) -> Outcome:
    return fetch("it", root, known, network=network, **options)


def visible(root: Path) -> dict[str, bytes]:
    """The files of the data set, without the hidden ones."""
    found = contents(root / "it")
    return {name: content for name, content in found.items() if not name.startswith(".reliquant/")}


def hidden(root: Path) -> set[str]:
    return {name.removeprefix(".reliquant/") for name in contents(root / "it") if name.startswith(".reliquant/")}


def test_files_lie_in_their_folder_with_markers(server: Server, network: Network, tmp_path: Path) -> None:
    known = download(server, {"test/0.tar": PLAIN, "names.txt": b"a\nb\n"})
    assert [f.status for f in state("it", tmp_path, known).files] == ["missing"] * 2
    assert state("it", tmp_path, known).to_fetch == 5004
    outcome = got(tmp_path, known, network)
    assert (outcome.got, outcome.missing) == (("test/0.tar", "names.txt"), ())
    assert visible(tmp_path) == {"test/0.tar": PLAIN, "names.txt": b"a\nb\n"}
    assert {name for name in hidden(tmp_path) if not name.endswith(".lock")} == {"test/0.tar.json", "names.txt.json"}
    marker = read_marker(Places(tmp_path / "it", "test/0.tar"))
    assert marker is not None
    assert (marker.bytes, marker.sums, marker.source) == (5000, {"sha256": sha256(PLAIN)}, server.at("test/0.tar"))
    assert state("it", tmp_path, known).complete


def test_what_is_finished_is_never_read_again(
    server: Server, network: Network, tmp_path: Path, archive: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = download(server, {"a.tar": PLAIN, "b.tar": archive})
    known["it"].files["b.tar"].__dict__["unpack"] = None
    got(tmp_path, known, network)
    server.log.clear()

    def never(*_: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(sums, "sum_of", never)
    assert got(tmp_path, known, network).got == ()
    assert state("it", tmp_path, known).complete
    assert server.log == []


def unpacked(server: Server, archive: bytes, **how: Any) -> dict[str, Download]:
    server.put("a.tar", archive)
    file = {"bytes": len(archive), "md5": hashlib.md5(archive).hexdigest(), "unpack": {"strip": 1} | how}
    return download(server, {"a.tar": file | {"sources": [{"url": server.at("a.tar")}]}})


EXPECTED = {name.removeprefix("top/"): content for name, content in FILES.items()}


def test_an_archive_is_unpacked_and_removed(server: Server, network: Network, tmp_path: Path, archive: bytes) -> None:
    known = unpacked(server, archive)
    got(tmp_path, known, network)
    assert visible(tmp_path) == EXPECTED
    assert {name for name in hidden(tmp_path) if not name.endswith(".lock")} == {"a.tar.json"}
    assert state("it", tmp_path, known).complete
    server.log.clear()
    assert got(tmp_path, known, network).got == ()
    assert server.log == []


def test_an_archive_may_be_kept(server: Server, network: Network, tmp_path: Path, archive: bytes) -> None:
    known = unpacked(server, archive, keep=True)
    got(tmp_path, known, network)
    assert visible(tmp_path) == EXPECTED | {"a.tar": archive}
    (tmp_path / "it" / "a.tar").unlink()
    assert not state("it", tmp_path, known).complete


def test_what_came_of_an_archive_and_was_deleted_is_missed(
    server: Server, network: Network, tmp_path: Path, archive: bytes
) -> None:
    known = unpacked(server, archive)
    got(tmp_path, known, network)
    (tmp_path / "it" / "b.txt").unlink()
    assert not state("it", tmp_path, known).complete
    got(tmp_path, known, network)
    assert visible(tmp_path) == EXPECTED


@pytest.mark.parametrize("where", ["_extract", "_refuse_obstacles", "_move", "sync"])
def test_stopped_while_unpacking_it_is_unpacked_from_the_archive_without_reading_its_sum(
    server: Server, network: Network, tmp_path: Path, archive: bytes, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    known = unpacked(server, archive)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        if where == "sync":
            patched.setattr(fetching, "SYNCED", 0)
            patched.setattr(os, "sync", stop)
        else:
            patched.setattr(unpacking, where, stop)
        with pytest.raises(KeyboardInterrupt):
            got(tmp_path, known, network)
    found = state("it", tmp_path, known)
    assert [(f.status, f.here) for f in found.files] == [("partial", len(archive))]
    server.log.clear()
    monkeypatch.setattr(fetching, "problem", lambda *_: pytest.fail("read again"))
    got(tmp_path, known, network)
    assert server.log == []
    assert visible(tmp_path) == EXPECTED
    assert {name for name in hidden(tmp_path) if not name.endswith(".lock")} == {"a.tar.json"}


def two_sources(server: Server, content: bytes) -> dict[str, Download]:
    file = {"bytes": len(content), "sha256": sha256(content)}
    return download(server, {"f": file | {"sources": [{"url": server.at("one")}, {"url": server.at("two")}]}})


def test_the_next_source_is_asked(server: Server, network: Network, tmp_path: Path) -> None:
    known = two_sources(server, PLAIN)
    server.put("one", PLAIN[::-1])  # the right size and the wrong sum
    server.put("two", PLAIN)
    assert got(tmp_path, known, network).got == ("f",)
    assert visible(tmp_path) == {"f": PLAIN}
    marker = read_marker(Places(tmp_path / "it", "f"))
    assert marker is not None
    assert marker.source == server.at("two")


def test_a_file_that_nobody_has_is_missing_with_the_reasons(server: Server, network: Network, tmp_path: Path) -> None:
    known = two_sources(server, PLAIN)
    server.put("two", PLAIN[::-1])
    outcome = got(tmp_path, known, network)
    assert outcome.got == ()
    (missing,) = outcome.missing
    assert "one: the server answers 404" in missing.why[0]
    assert f"two: has sha256 {sha256(PLAIN[::-1])}, expected {sha256(PLAIN)}" in missing.why[1]
    assert visible(tmp_path) == {}


def test_a_splice_that_nothing_else_shows_is_seen_by_the_sum(server: Server, network: Network, tmp_path: Path) -> None:
    """No ETag, no date, the same size: only the sum tells, and the file is fetched again as a whole."""
    known = two_sources(server, PLAIN)
    page = server.put("one", PLAIN[::-1], etag=None, cuts=[2000] + [0] * 4)
    server.put("two", b"")
    assert got(tmp_path, known, network).got == ()
    page.content = PLAIN
    assert got(tmp_path, known, network).got == ("f",)
    assert visible(tmp_path) == {"f": PLAIN}


def by_hand(server: Server, **file: Any) -> dict[str, Download]:
    source = {"manual": "from its authors", "link": "https://example.org"}
    return download(server, {"m.tar": {"sources": [source]} | file})


def test_a_file_that_only_the_user_can_get(server: Server, network: Network, tmp_path: Path, archive: bytes) -> None:
    known = by_hand(server, bytes=len(archive), sha256=sha256(archive), unpack={"strip": 1})
    root = tmp_path / "data"
    assert state("it", root, known).files[0].status == "by hand"
    (missing,) = got(root, known, network).missing
    assert (missing.why, missing.by_hand[0].shown) == ((), "from its authors https://example.org")
    own = tmp_path / "downloads" / "m.tar"
    own.parent.mkdir()
    own.write_bytes(archive)
    found = matched([own], [state("it", root, known)])
    assert got(root, known, network, archives=found["it"]).missing == ()
    assert visible(root) == EXPECTED
    assert own.read_bytes() == archive
    assert server.log == []


@pytest.mark.parametrize("links", [True, False])
def test_a_users_file_that_stays_as_it_is_becomes_a_link_or_a_copy(
    server: Server, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    known = by_hand(server, bytes=len(PLAIN), sha256=sha256(PLAIN))
    own = tmp_path / "under another name.bin"
    own.write_bytes(PLAIN)
    if not links:

        def refuse(*_: object) -> None:
            raise OSError(18, "Invalid cross-device link")

        monkeypatch.setattr(os, "link", refuse)
    root = tmp_path / "data"
    found = matched([own], [state("it", root, known)])
    got(root, known, network, archives=found["it"])
    assert visible(root) == {"m.tar": PLAIN}
    assert own.samefile(root / "it" / "m.tar") is links


def test_a_users_file_that_is_another_is_refused(server: Server, network: Network, tmp_path: Path) -> None:
    known = by_hand(server, bytes=len(PLAIN), sha256=sha256(PLAIN))
    own = tmp_path / "m.tar"
    states = [state("it", tmp_path, known)]
    with pytest.raises(InputError, match=r"m\.tar: no such file"):
        matched([own], states)
    own.write_bytes(b"short")
    with pytest.raises(InputError, match="has 5 bytes, expected 5,000"):
        matched([own], states)
    own.write_bytes(PLAIN[::-1])
    with pytest.raises(InputError, match=r"has sha256 .* it is not the m\.tar that is wanted"):
        got(tmp_path, known, network, archives=matched([own], states)["it"])
    other = tmp_path / "other"
    other.write_bytes(PLAIN[::-1])
    with pytest.raises(InputError, match=r"neither its name nor its sum is that of a wanted file \(m\.tar\)"):
        matched([other], states)


def test_a_file_put_into_its_place_is_taken_and_a_wrong_one_left(
    server: Server, network: Network, tmp_path: Path, archive: bytes
) -> None:
    known = by_hand(server, bytes=len(archive), sha256=sha256(archive), unpack={"strip": 1})
    place = tmp_path / "it" / "m.tar"
    place.parent.mkdir()
    place.write_bytes(archive[:-1])
    (missing,) = got(tmp_path, known, network).missing
    assert f"m.tar: has {len(archive) - 1:,} bytes, expected {len(archive):,}; move it away" in missing.why[0]
    assert place.read_bytes() == archive[:-1]
    place.write_bytes(archive)
    assert got(tmp_path, known, network).got == ("m.tar",)
    assert visible(tmp_path) == EXPECTED | {"m.tar": archive}


def test_data_that_the_user_put_there_is_left_alone(server: Server, network: Network, tmp_path: Path) -> None:
    known = download(server, {"x.tar": PLAIN}, provides=["cifar10-c"], folder="CIFAR-10-C")
    (tmp_path / "CIFAR-10-C").mkdir()
    assert not state("it", tmp_path, known).own  # an empty folder is nothing
    (tmp_path / "CIFAR-10-C" / "labels.npy").write_bytes(b"mine")
    found = state("it", tmp_path, known)
    assert (found.own, found.complete, found.to_fetch) == (True, True, 0)
    assert got(tmp_path, known, network) == Outcome(found)
    assert contents(tmp_path / "CIFAR-10-C") == {"labels.npy": b"mine"}


def test_an_archive_that_waits_in_its_place_is_no_data_yet(
    server: Server, network: Network, tmp_path: Path, archive: bytes
) -> None:
    known = download(server, {"x.tar": archive}, provides=["cifar10-c"], folder="CIFAR-10-C")
    known["it"].files["x.tar"].__dict__["unpack"] = Unpack(strip=1)
    (tmp_path / "CIFAR-10-C").mkdir()
    (tmp_path / "CIFAR-10-C" / "x.tar").write_bytes(archive)
    assert [f.status for f in state("it", tmp_path, known).files] == ["partial"]
    assert got(tmp_path, known, network).got == ("x.tar",)
    assert server.log == []


def test_a_list_that_another_download_brought_is_not_the_images(
    server: Server, network: Network, tmp_path: Path, archive: bytes
) -> None:
    """OpenOOD's lists and sets share a folder, and what a set provides is its list."""
    lists, images = b"a.jpg 0\n", "images_largescale/ninco"
    name = "benchmark_imglist/imagenet/test_ninco.txt"
    known = download(server, {name: lists}, folder="openood")
    known["ninco"] = download(server, {"ninco.zip": archive}, folder="openood", provides=["ninco"])["it"]
    known["ninco"].files["ninco.zip"].__dict__["unpack"] = Unpack(to=images)
    got(tmp_path, known, network)
    assert not state("ninco", tmp_path, known).complete
    (tmp_path / "openood" / images).mkdir(parents=True)
    assert not state("ninco", tmp_path, known).complete
    (tmp_path / "openood" / images / "a.jpg").write_bytes(b"the user's own")
    assert state("ninco", tmp_path, known).own


def test_optional_files_are_fetched_by_name(server: Server, network: Network, tmp_path: Path) -> None:
    known = download(server, {"a": b"1", "b": b"2"})
    known["it"].files["b"].__dict__["optional"] = True
    assert got(tmp_path, known, network).got == ("a",)
    assert state("it", tmp_path, known).complete
    assert not state("it", tmp_path, known, only=["b"]).complete
    assert got(tmp_path, known, network, only=["b"]).got == ("b",)


# The hub


PATTERN = {"sources": [{"hub": "org/it", "revision": "main", "path": "test/*.tar"}]}


def listing(commit: str, files: dict[str, bytes]) -> Listing:
    return Listing(commit * 40, tuple(HubFile(n, len(c), sha256=sha256(c)) for n, c in files.items()))


def test_a_pattern_stands_for_what_the_hub_lists(server: Server, network: Network, tmp_path: Path) -> None:
    known = download(server, {"test/*.tar": PATTERN})
    asked: list[Source] = []

    def ask(source: Source) -> Listing:
        asked.append(source)
        return listing("a", {"test/0.tar": PLAIN, "test/1.tar": b"x"})

    found = state("it", tmp_path, known, ask=ask)
    assert [(f.item.name, f.item.sums.bytes, f.item.pattern) for f in found.files] == [
        ("test/0.tar", 5000, "test/*.tar"),
        ("test/1.tar", 1, "test/*.tar"),
    ]
    assert found.files[0].item.sources[0].revision == "a" * 40
    state("it", tmp_path, known, fresh=True, ask=ask)
    assert len(asked) == 2

    def away(source: Source) -> Listing:
        raise SourceError("away")

    assert state("it", tmp_path, known, ask=away) == found  # what was fetched needs no network to be checked
    assert state("it", tmp_path, known, fresh=True, ask=away) == found


def test_a_hub_that_is_away_is_asked_once(server: Server, tmp_path: Path) -> None:
    known = download(server, {"test/*.tar": PATTERN, "a/*.tar": PATTERN | {"optional": True}, "x": b"1"})
    asked: list[Source] = []

    def away(source: Source) -> Listing:
        asked.append(source)
        raise Unreachable("hub org/it", "no answer in time")

    found = state("it", tmp_path, known, ask=remembering(away))
    assert [f.status for f in found.files] == ["unknown", "missing"]
    assert "no answer in time" in str(found.files[0].item.problem)
    assert found.to_fetch is None
    assert len(asked) == 1


def test_files_of_another_revision_are_replaced_and_those_it_lacks_removed(
    server: Server, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = download(server, {"test/*.tar": PATTERN})
    monkeypatch.setattr(fetching.hub, "address", lambda source: (server.at(f"{source.revision[:1]}/{source.path}"), {}))
    first = {"test/0.tar": PLAIN, "test/1.tar": b"one", "test/2.tar": b"two"}
    second = {"test/0.tar": PLAIN, "test/1.tar": b"eins"}
    for name, files in (("a", first), ("b", second)):
        for path, content in files.items():
            server.put(f"{name}/{path}", content)
    (tmp_path / "it" / "test").mkdir(parents=True)
    (tmp_path / "it" / "test" / "own.tar").write_bytes(b"mine")
    got(tmp_path, known, network, ask=lambda _: listing("a", first))
    assert visible(tmp_path) == first | {"test/own.tar": b"mine"}
    server.log.clear()
    outcome = got(tmp_path, known, network, ask=lambda _: listing("b", second))
    assert outcome.got == ("test/1.tar",)
    assert visible(tmp_path) == second | {"test/own.tar": b"mine"}
    assert [entry[0] for entry in server.log] == ["/b/test/1.tar"]


def test_a_copy_in_the_hubs_own_cache_is_used(
    server: Server, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = tmp_path / "cached"
    cached.write_bytes(PLAIN)
    monkeypatch.setattr(fetching.hub, "cached", lambda source: cached)
    known = download(server, {"test/*.tar": PATTERN})
    outcome = got(tmp_path, known, network, ask=lambda _: listing("a", {"test/0.tar": PLAIN}))
    assert outcome.got == ("test/0.tar",)
    assert visible(tmp_path) == {"test/0.tar": PLAIN}
    assert cached.read_bytes() == PLAIN
    assert server.log == []


@pytest.mark.parametrize("summed", [True, False])
def test_without_the_hub_the_next_source_or_the_users_file_serves(
    server: Server, network: Network, tmp_path: Path, summed: bool
) -> None:
    server.put("two", PLAIN)
    sources = [{"hub": "org/it", "revision": "main", "path": "f"}, {"url": server.at("two")}]
    sums_ = {"sha256": sha256(PLAIN)} if summed else {"unverified": "its authors publish none"}
    known = download(server, {"f": {"sources": sources} | sums_})

    def away(source: Source) -> Listing:
        raise Unreachable("hub org/it", "no answer in time")

    def refuse(source: Source) -> tuple[str, dict[str, str]]:
        raise SourceError("the hub is away")

    own = tmp_path / "mine" / "f"
    own.parent.mkdir()
    own.write_bytes(PLAIN)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(fetching.hub, "address", refuse)
        patched.setattr(fetching.hub, "cached", lambda source: None)
        assert got(tmp_path, known, network, ask=away).got == (("f",) if summed else ())
        assert got(tmp_path, known, network, ask=away, archives={"f": own}).missing == ()
    assert visible(tmp_path) == {"f": PLAIN}


# Room


def test_room_is_that_of_the_worst_moment(server: Server) -> None:
    known = download(server, {"a": b"1" * 10})
    base = state("it", Path("/nowhere"), known)
    item = base.files[0].item

    def one(size: int, here: int = 0, **unpack: Any) -> FileState:
        how = Unpack(**unpack) if unpack else None
        return FileState(dataclasses.replace(item, sums=sums.Sums(size), unpack=how), "missing", here)

    def needed(*files: FileState) -> int:
        return room([State("it", base.download, base.root, files)])

    assert needed(one(10), one(5)) == 15
    assert needed(one(10, here=4)) == 6
    assert needed(one(10, bytes=30)) == 40
    assert needed(one(10, bytes=30), one(10, bytes=30)) == 70
    assert needed(one(10, bytes=30, keep=True), one(5)) == 45
    assert needed(one(10, here=10, bytes=30)) == 30


def test_markers_that_cannot_be_read_are_none(server: Server, network: Network, tmp_path: Path) -> None:
    known = download(server, {"a": b"1"})
    got(tmp_path, known, network)
    marker = Places(tmp_path / "it", "a").marker
    for damaged in (b"", b"[]", b"{}", b'{"bytes": "x"}', json.dumps({"bytes": 1, "made": 3}).encode()):
        marker.write_bytes(damaged)
        assert state("it", tmp_path, known).files[0].status == "partial"
    server.log.clear()
    assert got(tmp_path, known, network).got == ("a",)
    assert server.log == []
