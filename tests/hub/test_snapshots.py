"""Models of the hub through the real client: interrupted, refused, moved and unreachable, and what is said of it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import httpx2
import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmark.errors import ModelError
from benchmark.models import ResolvedModel, resolve
from benchmark.utils import hub_client
from benchmark.utils.progress import open_progress
from benchmark.utils.transport import is_transport, reason
from tests.hub import Hub

REF = "transformers:org/name"
SHARDS = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]


def shard(seed: int) -> bytes:
    """A safetensors file of one tensor with 12,000 random bytes."""
    header = json.dumps({f"x{seed}": {"dtype": "U8", "shape": [12_000], "data_offsets": [0, 12_000]}}).encode()
    return len(header).to_bytes(8, "little") + header + Random(seed).randbytes(12_000)


FILES: dict[str, bytes | str | Path] = {
    "config.json": '{"model_type": "clip"}',
    "preprocessor_config.json": json.dumps(
        {"size": {"height": 32, "width": 32}, "resample": 3, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    ),
    "tokenizer.json": json.dumps({"words": list(range(2000))}),
    "tokenizer_config.json": "{}",
    "vocab.json": json.dumps({"a": 0}),
    "merges.txt": "a b\n",
    "model.safetensors.index.json": json.dumps({"weight_map": {"x1": SHARDS[0], "x2": SHARDS[1]}}),
    SHARDS[0]: shard(1),
    SHARDS[1]: shard(2),
    "README.md": "# not fetched",
    "pytorch_model.bin": b"not fetched either",
}
WANTED = set(FILES) - {"README.md", "pytorch_model.bin"}


@pytest.fixture
def hub(loopback_hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with the model, asked by this process; nobody sleeps between tries."""
    loopback_hub.model("org/name").commit(FILES)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with loopback_hub.asked_here(tmp_path):
        yield loopback_hub


def names(model: ResolvedModel) -> set[str]:
    """The files of a model's folder."""
    return {path.name for path in model.files[0].parent.iterdir()}


def refusal(ref: str = REF, what: str = "") -> str:
    """The one line that refuses a model."""
    with pytest.raises(ModelError) as caught:
        resolve(ref)
    text = str(caught.value)
    assert "\n" not in text
    assert what in text
    return text


def test_a_snapshot_is_fetched_whole_and_not_a_byte_more(hub: Hub, tmp_path: Path) -> None:
    commit = hub.model("org/name").branches["main"]
    model = resolve(REF)
    assert names(model) == WANTED
    assert model.commits == {"org/name": commit}
    asked = len(hub.requests("/resolve/"))
    assert resolve(REF).digest == model.digest
    assert len(hub.requests("/resolve/")) == asked
    hub.forget()
    assert resolve(f"{REF}@{commit}").digest == model.digest
    assert hub.requests() == []  # a commit does not move
    assert resolve(f"{REF}@{commit}").name == f"org.name-{commit[:8]}"
    assert resolve(f"{REF}@{commit[:10]}").commits == {"org/name": commit}


@pytest.fixture(scope="module")
def own_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Hub, Path, str]]:
    """A hub of the module, a folder, and the digest of the model when nothing goes wrong."""
    place = tmp_path_factory.mktemp("cuts")
    with Hub() as hub, pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "sleep", lambda _: None)
        hub.model("org/name").commit(FILES)
        with hub.asked_here(place / "whole"):
            digest = resolve(REF).digest
        yield hub, place, digest


CUTS = st.lists(
    st.tuples(st.sampled_from(sorted(WANTED)), st.integers(0, 13_000), st.sampled_from([1, 2, None]), st.booleans()),
    min_size=1,
    max_size=3,
)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(rounds=st.lists(CUTS, min_size=1, max_size=2), seed=st.integers())
def test_cuts_at_any_bytes_end_in_the_same_model(
    own_hub: tuple[Hub, Path, str], rounds: list[list[tuple[str, int, int | None, bool]]], seed: int
) -> None:
    """Whatever breaks, a resolved model is the whole one, and the next try goes on."""
    hub, place, digest = own_hub
    folder = place / f"{len(list(place.iterdir()))}"
    for cuts in rounds:
        for name, at, times, reset in cuts:
            hub.cut(f"GET .*/{name}$", at=at, times=times, reset=reset)
        with hub.asked_here(folder):
            try:
                found = resolve(REF).digest
            except ModelError as error:
                found = str(error)
        assert found == digest or re.search(r"cannot be fetched: .*whole files are kept", found), found
        hub.heal()
    with hub.asked_here(folder):
        model = resolve(REF)
    assert (model.digest, names(model)) == (digest, WANTED)


def test_an_interrupted_download_is_not_taken_for_the_model(hub: Hub) -> None:
    """The tokenizer was never fetched: offline that is said, with the hub back it is finished."""
    hub.fail("tokenizer.json", 500)
    refusal(what="tokenizer.json cannot be fetched: the hub answers 500")
    with hub.down():
        hub_client._probe.cache_clear()
        assert "cannot be reached" in refusal()
    hub.heal()
    hub_client._probe.cache_clear()
    assert names(resolve(REF)) == WANTED


def test_a_broken_connection_is_resumed_and_said(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hub_client, "CHUNK", 1000)
    hub.cut(f"GET /cdn/.*{SHARDS[0]}", at=5500)
    hub.cut(f"GET /cdn/.*{SHARDS[1]}", at=7000, reset=True)
    with open_progress(quiet=False):
        resolve(REF)
    assert [r.range for r in hub.requests(f"/cdn/.*{SHARDS[0]}")] == [None, "bytes=5000-"]
    resumed = hub.requests(f"/cdn/.*{SHARDS[1]}")[-1].range
    assert resumed is not None
    said = capsys.readouterr().err
    assert f"{SHARDS[0]}: the connection broke (5.5 kB of 12.1 kB received); resuming" in said
    assert f"{SHARDS[1]}: the connection broke (Connection reset by peer); resuming" in said


def test_a_moved_branch_is_another_model(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    repository = hub.model("org/name")
    first, old = repository.branches["main"], resolve(REF)
    second = repository.commit({SHARDS[1]: shard(3).replace(b'"x3"', b'"x2"')})
    new = resolve(REF)
    assert (old.commits["org/name"], new.commits["org/name"]) == (first, second)
    assert new.digest != old.digest
    assert resolve(f"{REF}@{first}").digest == old.digest
    repository.move("main", first)
    assert resolve(REF).digest == old.digest


def test_a_branch_moves_only_when_all_of_its_new_commit_is_here(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    old = resolve(REF)
    hub.model("org/name").commit({SHARDS[1]: shard(4), "tokenizer.json": "{}"})
    hub.fail(SHARDS[1], 500)
    refusal(what=f"{SHARDS[1]} cannot be fetched")
    hub.heal()
    with hub.down(), open_progress(quiet=False):
        hub_client._probe.cache_clear()
        assert resolve(REF).digest == old.digest
    assert f"org/name: using {old.commits['org/name'][:8]} from the cache, since " in capsys.readouterr().err


def test_each_refusal_has_its_own_advice(hub: Hub, tmp_path: Path) -> None:
    assert "no such repository on the hub, or it is private: check the name, or log in" in refusal("hf-hub:org/none")
    assert "no revision 'gone' there; http" in refusal(f"{REF}@gone")
    assert "no revision is called '../x'; give a branch" in refusal(f"{REF}@../x")
    hub.model("org/empty").commit({"README.md": "x"})
    assert "the hub has no file config.json there" in refusal("transformers:org/empty")
    hub.model("org/name").gated = True
    assert f"gated: accept its terms at {hub.url}/org/name; then log in: `hf auth login`" in refusal()
    hub.tokens, hub.granted = {"hf_new"}, {"hf_known"}
    for token, told in (("hf_new", "this account has no access yet"), ("hf_bad", "refuses the token (401)")):
        with hub.asked_here(tmp_path / token, token):
            assert told in refusal()
    with hub.asked_here(tmp_path / "known", "hf_known"):
        assert names(resolve(REF)) == WANTED
    with hub.asked_here(tmp_path / "offline", offline=True):
        assert "HF_HUB_OFFLINE=1 forbids the download; unset it, or give a folder" in refusal()
    with hub.asked_here(tmp_path / "forbidden"):
        hub.fail("/resolve/", 403)
        hub.model("org/name").gated = False
        assert "forbids it (403" in refusal()


@pytest.mark.parametrize(("status", "tries"), [(500, 3), (502, 3), (503, 3), (429, 3)])
def test_retries_are_bounded_and_visible(hub: Hub, status: int, tries: int, capsys: pytest.CaptureFixture[str]) -> None:
    hub.fail("GET /api/models", status)
    with open_progress(quiet=False):
        refusal(what=f"the hub answers {status}")
    assert len(hub.requests("GET /api/models")) == tries
    assert capsys.readouterr().err.count("trying again in") == tries - 1
    hub.heal()
    hub.fail("GET /api/models", status, times=2)
    assert names(resolve(REF)) == WANTED


def test_a_long_wait_is_the_users(hub: Hub) -> None:
    hub.fail("/cdn/", 429, Retry_After="300")
    assert "429 (too many requests) and asks to wait 5 min; run the same command again then" in refusal()
    assert len(hub.requests("/cdn/")) == 1


def test_a_short_wait_is_waited(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    hub.fail("/cdn/", 429, times=1, Retry_After="7")
    resolve(REF)
    assert 7 in slept


def test_a_hub_that_is_away_costs_one_timeout(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_client, "PROBE", 0.3)
    digest = resolve(REF).digest
    with hub.silent():
        hub_client._probe.cache_clear()
        start = time.monotonic()
        assert [resolve(REF).digest for _ in range(5)] == [digest] * 5
        assert time.monotonic() - start < 1.5
    hub_client._probe.cache_clear()
    hub.fail("/api/", 500)
    asked = len(hub.requests("/api/"))
    assert resolve(REF).digest == digest
    assert len(hub.requests("/api/")) == asked + 1


def test_a_cache_that_another_program_filled(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    """Without the list of the commit's files, those that are here count; with the hub back they are completed."""
    digest = resolve(REF).digest
    folder = resolve(REF).files[0].parent.parent.parent
    for path in (folder / "reliquant").iterdir():
        path.unlink()
    with hub.down(), open_progress(quiet=False):
        hub_client._probe.cache_clear()
        assert resolve(REF).digest == digest
    assert "which files it should have is not known here" in capsys.readouterr().err
    (folder / "snapshots" / hub.model("org/name").branches["main"] / "tokenizer.json").unlink()
    hub_client._probe.cache_clear()
    assert resolve(REF).digest == digest


ERRORS = [
    (httpx2.ConnectError("[Errno 111] Connection refused"), "[Errno 111] Connection refused"),
    (httpx2.ReadTimeout("timed out"), "no answer in time"),
    (httpx2.RemoteProtocolError("peer closed connection"), "peer closed connection"),
    (requests.exceptions.ConnectionError("Max retries exceeded\nwith url"), "Max retries exceeded"),
    (requests.exceptions.ReadTimeout(), "no answer in time"),
    (ConnectionResetError(104, "Connection reset by peer"), "Connection reset by peer"),
    (OSError(28, "No space left on device"), "No space left on device; what is finished is kept"),
    (TimeoutError(), "no answer in time"),
]


@pytest.mark.parametrize(("error", "told"), ERRORS, ids=lambda each: type(each).__name__)
def test_errors_of_any_client_are_one_line(error: Exception, told: str) -> None:
    assert is_transport(error)
    assert reason(error).startswith(told)
    assert "\n" not in reason(error)


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("x"), RuntimeError("x")])
def test_other_errors_are_none_of_transport(error: Exception) -> None:
    assert not is_transport(error)


def test_a_full_disk_is_said(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.file_download as client

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(client, "http_get", full)
    assert "No space left on device; what is finished is kept: make room" in refusal()
    monkeypatch.undo()
