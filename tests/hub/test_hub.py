"""The loopback hub against the real client: what the client makes of each answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.hub import Hub

WEIGHTS = bytes(range(256)) * 100


def client(hub: Hub, folder: Path, code: str, token: str | None = None) -> dict[str, Any]:
    """What code that fills `found` finds, with the real client in a process of its own."""
    head = "import json, huggingface_hub as h\nfound = {}\ndef tried(f, *a, **o):\n    try: return str(f(*a, **o))\n"
    head += "    except Exception as e: return type(e).__name__\n"
    environment = {**os.environ, **hub.environment(folder, token)}
    done = subprocess.run(
        [sys.executable, "-c", f"{head}{code}\nprint(json.dumps(found))"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_a_snapshot_by_branch_and_by_commit(loopback_hub: Hub, tmp_path: Path) -> None:
    loopback_hub.page = 2
    model = loopback_hub.model("org/name")
    first = model.commit(
        {"config.json": "{}", "model.safetensors": WEIGHTS, "sub/a b.txt": "one", "sub/deep/c.txt": "c"}
    )
    second = model.commit({"sub/a b.txt": "two"})
    code = f"""
for name, revision in (("branch", None), ("first", {first!r})):
    folder = h.snapshot_download("org/name", revision=revision)
    size = len(open(folder + "/model.safetensors", "rb").read())
    found[name] = [folder[-40:], open(folder + "/sub/a b.txt").read(), size]
found["files"] = sorted(h.HfApi().list_repo_files("org/name"))
found["info"] = [f.path for f in h.HfApi().get_paths_info("org/name", ["config.json", "sub", "none"])]
"""
    found = client(loopback_hub, tmp_path, code)
    assert found["branch"] == [second, "two", len(WEIGHTS)]
    assert found["first"] == [first, "one", len(WEIGHTS)]
    assert found["files"] == ["config.json", "model.safetensors", "sub/a b.txt", "sub/deep/c.txt"]
    assert found["info"] == ["config.json", "sub"]
    assert any("cursor=2" in one.path for one in loopback_hub.requests("/tree/"))
    stored = loopback_hub.requests("GET /cdn/")
    assert [one.sent for one in stored] == [len(WEIGHTS)]  # once: the second commit has the same bytes


def test_refusals_are_the_clients_own_errors(loopback_hub: Hub, tmp_path: Path) -> None:
    loopback_hub.granted, loopback_hub.tokens = {"hf_good"}, {"hf_other"}
    gated = loopback_hub.model("org/gated")
    gated.commit({"config.json": "{}"})
    gated.gated = True
    loopback_hub.model("org/open").commit({"config.json": "{}"})
    loopback_hub.dataset("org/private").commit({"a.txt": "a"})
    loopback_hub.dataset("org/private").private = True
    code = """
d = h.hf_hub_download
found = dict(
    gated=tried(d, "org/gated", "config.json"), listed=len(h.HfApi().list_repo_files("org/gated")),
    repo=tried(d, "org/none", "config.json"), entry=tried(d, "org/open", "x.json"),
    revision=tried(d, "org/open", "config.json", revision="gone"),
    private=tried(d, "org/private", "a.txt", repo_type="dataset"),
    open=tried(d, "org/open", "config.json"),
)
"""
    none = client(loopback_hub, tmp_path / "none", code)
    assert none.pop("open").endswith("config.json")
    assert none == {
        **{"gated": "GatedRepoError", "listed": 1, "repo": "RepositoryNotFoundError"},
        **{
            "entry": "RemoteEntryNotFoundError",
            "revision": "RevisionNotFoundError",
            "private": "RepositoryNotFoundError",
        },
    }
    assert client(loopback_hub, tmp_path / "other", code, "hf_other")["gated"] == "GatedRepoError"
    good = client(loopback_hub, tmp_path / "good", code, "hf_good")
    assert good["gated"].endswith("config.json")
    assert good["private"].endswith("a.txt")
    assert client(loopback_hub, tmp_path / "bad", "found['x'] = tried(h.whoami)", "hf_bad") == {"x": "HfHubHTTPError"}
    assert all(one.token is None for one in loopback_hub.requests("GET /cdn/"))


def test_a_cut_body_is_resumed_by_a_range(loopback_hub: Hub, tmp_path: Path) -> None:
    loopback_hub.model("org/name").commit({"model.safetensors": WEIGHTS})
    loopback_hub.cut("GET /cdn/.*model.safetensors", at=10_000)
    code = """
from huggingface_hub import constants
constants.DOWNLOAD_CHUNK_SIZE = 5000  # the client writes whole chunks of 10 MB, and resumes after the last
found["size"] = len(open(h.hf_hub_download("org/name", "model.safetensors"), "rb").read())
"""
    assert client(loopback_hub, tmp_path, code) == {"size": len(WEIGHTS)}
    cut, resumed = loopback_hub.requests("GET /cdn/")
    assert (cut.status, cut.sent, resumed.status, resumed.range) == (200, 10_000, 206, "bytes=10000-")


def ask(url: str, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    request = urllib.request.Request(url, headers={name.replace("_", "-"): value for name, value in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, answer.read(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), dict(error.headers)


def test_plain_files_with_ranges_redirects_and_faults(loopback_hub: Hub) -> None:
    url = loopback_hub.plain("a/b.tar", WEIGHTS, etag='"v1"')
    assert ask(url)[:2] == (200, WEIGHTS)
    assert ask(url, Range="bytes=5-9")[:2] == (206, WEIGHTS[5:10])
    assert ask(url, Range="bytes=-3")[:2] == (206, WEIGHTS[-3:])
    assert ask(url, Range="bytes=5-", If_Range='"v0"')[:2] == (200, WEIGHTS)
    assert ask(url, Range=f"bytes={len(WEIGHTS)}-")[0] == 416
    assert ask(loopback_hub.plain("no", WEIGHTS, ranges=False), Range="bytes=5-9")[0] == 200
    assert ask(loopback_hub.plain("moved", redirect=url))[:2] == (200, WEIGHTS)
    assert ask(f"{loopback_hub.url}/files/none")[0] == 404
    loopback_hub.fail("/files/a/b.tar", 429, times=1, Retry_After="3")
    status, _, headers = ask(url)
    assert (status, headers["Retry-After"]) == (429, "3")
    assert ask(url)[0] == 200
    with loopback_hub.down(), pytest.raises(urllib.error.URLError):
        ask(url)
    assert ask(url)[0] == 200


def test_raw_gives_the_pointer_of_an_lfs_file(loopback_hub: Hub) -> None:
    data = loopback_hub.dataset("org/data")
    data.commit({"test/0.tar": WEIGHTS})
    status, body, _ = ask(f"{loopback_hub.url}/datasets/org/data/raw/main/test/0.tar")
    entry = data.tree(data.branches["main"], "", recursive=True)[-1]
    assert status == 200
    assert f"oid sha256:{entry['lfs']['oid']}\nsize {len(WEIGHTS)}" in body.decode()
