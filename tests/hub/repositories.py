"""Repositories of the loopback hub: commits, branches, and files that lie in git or in LFS."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

LFS_SUFFIXES = (".safetensors", ".bin", ".tar", ".parquet", ".gz", ".zip", ".npy", ".jpg", ".png", ".webp")
"""As in the hub's own `.gitattributes`."""

Kind = Literal["model", "dataset"]


def git_digest(content: bytes) -> str:
    """The SHA-1 that git gives a blob: the ETag of a file that is not in LFS."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class File:
    """A file of a commit."""

    path: str
    content: bytes = field(repr=False)

    @property
    def lfs(self) -> bool:
        """Whether it is stored in LFS, and so served from another address."""
        return self.path.endswith(LFS_SUFFIXES)

    @property
    def sha256(self) -> str:
        """Of its bytes: its name in LFS."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def pointer(self) -> bytes:
        """What git holds in the place of an LFS file, and `/raw/` answers."""
        text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n"
        return text.encode()

    @property
    def etag(self) -> str:
        """SHA-256 in LFS, git's SHA-1 otherwise."""
        return self.sha256 if self.lfs else git_digest(self.content)

    def entry(self) -> dict[str, Any]:
        """As `/tree/` and `/paths-info/` list it."""
        stored = self.pointer if self.lfs else self.content
        entry = {"type": "file", "oid": git_digest(stored), "size": len(self.content), "path": self.path}
        if self.lfs:
            entry["lfs"] = {"oid": self.sha256, "size": len(self.content), "pointerSize": len(self.pointer)}
        return entry


@dataclass
class Repository:
    """A model or data set with its history.

    Attributes:
        gated: its files need a token of the hub's `granted`; `private`: so does everything, and without one it is as
            if it were not there.
    """

    name: str
    kind: Kind = "model"
    gated: bool = False
    private: bool = False
    commits: dict[str, dict[str, File]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, files: Mapping[str, bytes | str | Path], branch: str = "main", remove: Iterable[str] = ()) -> str:
        """Add files to a branch, which moves; the hash of the commit."""
        tree = dict(self.commits.get(self.branches.get(branch, ""), {}))
        for path in remove:
            del tree[path]
        tree |= {path: File(path, _bytes(content)) for path, content in files.items()}
        parts = [self.kind, self.name, str(len(self.commits)), *(f"{path} {tree[path].etag}" for path in sorted(tree))]
        commit = hashlib.sha1("\n".join(parts).encode()).hexdigest()
        self.commits[commit] = tree
        self.branches[branch] = commit
        return commit

    def commit_folder(self, folder: Path, branch: str = "main") -> str:
        """Add a folder with all below it."""
        files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        return self.commit(files, branch)

    def move(self, branch: str, commit: str) -> None:
        """Let a branch name another commit."""
        if commit not in self.commits:
            raise KeyError(commit)
        self.branches[branch] = commit

    def resolve(self, revision: str) -> str | None:
        """The commit of a branch, a whole hash, or one that is cut; None for none."""
        revision = revision.removeprefix("refs/heads/")
        if revision in self.branches:
            return self.branches[revision]
        found = [commit for commit in self.commits if len(revision) >= 7 and commit.startswith(revision)]
        return found[0] if len(found) == 1 else None

    def about(self, commit: str) -> dict[str, Any]:
        """As the hub's API describes it."""
        times = dict.fromkeys(("lastModified", "createdAt"), "2026-01-01T00:00:00.000Z")
        own = {"modelId": self.name} if self.kind == "model" else {}
        return {
            **{"_id": git_digest(self.name.encode())[:24], "id": self.name, **own, "sha": commit, **times},
            **{"private": self.private, "gated": "auto" if self.gated else False, "disabled": False},
            **{"downloads": 0, "likes": 0, "tags": [], "author": self.name.split("/")[0]},
            "siblings": [{"rfilename": path} for path in sorted(self.commits[commit])],
        }

    def tree(self, commit: str, folder: str, recursive: bool) -> list[dict[str, Any]]:
        """Files and folders below a folder ("" for the top); empty where there is none."""
        inside = f"{folder}/" if folder else ""
        files = {path: file for path, file in sorted(self.commits[commit].items()) if path.startswith(inside)}
        folders = dict.fromkeys(
            inside + "/".join(parts[: depth + 1])
            for path in files
            for parts in [path.removeprefix(inside).split("/")]
            for depth in range(len(parts) - 1)
        )
        shown = [name for name in folders if recursive or "/" not in name.removeprefix(inside)]
        entries = [{"type": "directory", "oid": git_digest(name.encode()), "size": 0, "path": name} for name in shown]
        direct = [file.entry() for path, file in files.items() if recursive or "/" not in path.removeprefix(inside)]
        return entries + direct


def _bytes(content: bytes | str | Path) -> bytes:
    if isinstance(content, Path):
        return content.read_bytes()
    return content.encode() if isinstance(content, str) else content
