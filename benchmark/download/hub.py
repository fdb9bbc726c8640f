"""Files of the Hugging Face hub: which there are in a revision, how large, with which sums; their addresses.

The hub's client says all that. The bytes come through `benchmark.download.transfer`, see there.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.download.refusals import OFFLINE, SourceError, refusal
from benchmark.download.schema import Source, inside, is_pattern
from benchmark.utils.hub import COMMIT
from benchmark.utils.hub_client import Unavailable, patient, unreachable
from benchmark.utils.transport import is_transport, reason

if TYPE_CHECKING:
    from huggingface_hub import RepoFile


class Unreachable(SourceError):
    """No answer from the hub, or none of use: asking for something else helps no more."""

    def __init__(self, where: str, told: str) -> None:
        super().__init__(f"{where}: {told}")
        self.told = told


@dataclass(frozen=True)
class HubFile:
    """A file of a repository: its path there, bytes, SHA-256 (of one in LFS) or git's SHA-1 (of another)."""

    path: str
    bytes: int
    sha256: str | None = None
    git: str | None = None


@dataclass(frozen=True)
class Listing:
    """The files that a source names, at one commit."""

    commit: str
    files: tuple[HubFile, ...]


def listing(source: Source) -> Listing:
    """The file, or all files that match the pattern, of a hub source.

    Raises:
        SourceError: the hub cannot be reached, refuses, or has no such repository, revision or file.
    """
    from huggingface_hub import HfApi, RepoFile, constants

    where, path = source.shown, str(source.path)
    if constants.HF_HUB_OFFLINE:
        raise SourceError(f"{where}: {OFFLINE}")
    if (told := unreachable(constants.ENDPOINT)) is not None:
        raise Unreachable(where, f"{constants.ENDPOINT} cannot be reached ({told})")
    api, kind, repository, commit = HfApi(), source.type, str(source.hub), str(source.revision)
    with hub_errors(where), patient(where):
        if not COMMIT.fullmatch(commit):
            commit = str(api.repo_info(repository, repo_type=kind, revision=commit).sha)
        if is_pattern(path):
            folder = path.partition("*")[0].rpartition("/")[0]
            deep = "/" in path[len(folder) + 1 :]
            found = list(
                api.list_repo_tree(repository, folder or None, recursive=deep, revision=commit, repo_type=kind)
            )
        else:
            found = list(api.get_paths_info(repository, [path], revision=commit, repo_type=kind))
    files = [_file(each) for each in found if isinstance(each, RepoFile) and matches(each.path, path)]
    if not files:
        raise SourceError(f"{where}: there is no such file in that revision")
    try:
        for file in files:
            inside(file.path)
    except ValueError as error:
        raise SourceError(f"{where}: names a file that cannot be one: {error}") from None
    return Listing(commit, tuple(sorted(files, key=lambda file: file.path)))


def _file(entry: RepoFile) -> HubFile:
    if entry.lfs is None:
        return HubFile(entry.path, entry.size, git=entry.blob_id)
    return HubFile(entry.path, entry.size, sha256=entry.lfs.sha256)


@contextmanager
def hub_errors(where: str) -> Iterator[None]:
    """Within the block whatever the hub or the way to it answers is a `SourceError` that names `where`."""
    try:
        yield
    except Unavailable as error:
        raise Unreachable(where, str(error)) from None
    except Exception as error:
        told = refusal(getattr(getattr(error, "response", None), "headers", {}))
        if told is None and not is_transport(error) and type(error).__module__.partition(".")[0] != "huggingface_hub":
            raise
        raise SourceError(f"{where}: {told or reason(error)}") from None


def matches(path: str, pattern: str) -> bool:
    """Whether a path fits a pattern part by part: `*` does not cross `/`."""
    parts, wanted = path.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))


def address(source: Source, commit: str | None = None) -> tuple[str, Mapping[str, str]]:
    """The address of a hub source's file and the headers to ask with, the user's token among them.

    Raises:
        SourceError: offline mode is on.
    """
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.utils._headers import build_hf_headers

    if constants.HF_HUB_OFFLINE:
        raise SourceError(f"{source.shown}: {OFFLINE}")
    revision = commit or source.revision
    url = hf_hub_url(str(source.hub), str(source.path), repo_type=source.type, revision=revision)
    return url, build_hf_headers()


def cached(source: Source) -> Path | None:
    """The file in the hub's own cache, where an earlier download left it; no network is used."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(str(source.hub), str(source.path), revision=source.revision, repo_type=source.type)
    return Path(found) if isinstance(found, str) else None
