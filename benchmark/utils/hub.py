"""Repositories of the Hugging Face hub as whole snapshots: one commit, its list of files, and those that are wanted.

A branch is resolved to its commit first, once, and everything after that is asked of the commit: files of two commits
never meet. The list of the commit's files (the manifest) is kept in the client's cache beside the snapshot, so that a
download that was interrupted is seen for what it is, and finished next time. A branch counts as moved only when all
wanted files of its new commit are here: with the hub away, the last whole one is used.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmark.errors import DataError, InputError, ModelError, ReliquantError
from benchmark.utils.digests import file_digest
from benchmark.utils.hub_client import TIMEOUT, TRIES, Unavailable, download_bar, patient, unreachable
from benchmark.utils.progress import duration, shown
from benchmark.utils.transport import is_local, is_transport, reason

Kind = Literal["model", "dataset"]
COMMIT = re.compile(r"[0-9a-f]{40}")
REVISION = re.compile(r"[A-Za-z0-9](?:[\w-]|[./](?![./]))*(?<![./])")
"""Branch, tag, reference (`refs/pr/1`) or commit; no `..`, which would leave the cache."""

DEFAULT = "main"
_ERRORS: Mapping[Kind, type[InputError]] = {"model": ModelError, "dataset": DataError}
_INSTEAD: Mapping[Kind, str] = {
    "model": "give a folder with --model local-dir:PATH (open_clip_config.json and open_clip_model.safetensors)",
    "dataset": "download the data elsewhere and give its folder with 'source: webdataset', 'parquet' or 'image_folder'",
}


@dataclass(frozen=True)
class Repository:
    """A repository at a revision; None is the default branch.

    Raises:
        InputError: of its kind; no revision can have that name.
    """

    name: str
    revision: str | None = None
    kind: Kind = "model"

    def __post_init__(self) -> None:
        if self.revision is not None and not REVISION.fullmatch(self.revision):
            raise self.error(
                f"no revision is called '{self.revision}'; give a branch, a tag or a commit: {self.name}@main"
            )

    @property
    def where(self) -> str:
        """`ORG/NAME`, or `ORG/NAME@REVISION`."""
        return self.name if self.revision is None else f"{self.name}@{self.revision}"

    @property
    def page(self) -> str:
        """Its address for people."""
        from huggingface_hub import constants

        return f"{constants.ENDPOINT}/{'datasets/' * (self.kind == 'dataset')}{self.name}"

    @property
    def cache(self) -> Path:
        """Its folder in the client's cache."""
        from huggingface_hub import constants

        return Path(constants.HF_HUB_CACHE).expanduser() / f"{self.kind}s--{self.name.replace('/', '--')}"

    def error(self, text: str) -> InputError:
        """An error that names it."""
        return _ERRORS[self.kind](f"{self.where}: {text}")

    def cached_commit(self) -> str | None:
        """The commit of the revision when it was last fetched; None where it never was."""
        found = self.revision or DEFAULT
        if not COMMIT.fullmatch(found):
            try:
                found = (self.cache / "refs" / found).read_text(encoding="utf-8").strip()
            except (OSError, ValueError):
                return None
        return found if COMMIT.fullmatch(found) and (self.cache / "snapshots" / found).is_dir() else None


@dataclass(frozen=True)
class Snapshot:
    """One commit of a repository.

    Attributes:
        files: path -> what names its content (SHA-256 in LFS, git's SHA-1 otherwise), of all files of the commit.
        listed: False where the hub was not asked for them, and `files` are those that happen to be here.
        closed: why nothing can be downloaded; None where it can.
    """

    repository: Repository
    commit: str
    files: Mapping[str, str] = field(repr=False)
    listed: bool = True
    closed: str | None = None

    @property
    def folder(self) -> Path:
        """Where its files lie."""
        return self.repository.cache / "snapshots" / self.commit

    @property
    def origin(self) -> str:
        """`ORG/NAME@COMMIT`."""
        return f"{self.repository.name}@{self.commit}"

    def first(self, names: Iterable[str]) -> str | None:
        """The first of these files that the commit has."""
        return next((name for name in names if name in self.files), None)

    def fetch(self, names: Iterable[str]) -> Snapshot:
        """Download those of these files that are not here yet; the snapshot itself.

        Args:
            names: paths in the repository.

        Raises:
            InputError: of the repository's kind; what went wrong, what is kept, and what to do.
        """
        for name in dict.fromkeys(names):
            if not (self.folder / name).is_file():
                if self.closed is not None:
                    raise self.repository.error(f"{name} is not in the local cache, and {self.closed}")
                _download(self, name)
        return self

    def take(self, names: Sequence[str]) -> Path:
        """The first of these files that the commit has, downloaded.

        Raises:
            InputError: it has none of them; and as `fetch`.
        """
        found = self.first(names)
        if found is None and not self.listed:
            raise self.repository.error(f"{names[0]} is not in the local cache, and {self.closed}")
        if found is None:
            raise self.repository.error(f"the hub has no file {' or '.join(names)} there")
        return self.fetch([found]).path(found)

    def keep(self) -> None:
        """All wanted files are here: from now on the commit stands for its revision where the hub is away."""
        revision = self.repository.revision or DEFAULT
        if not COMMIT.fullmatch(revision) and self.closed is None:
            _write(self.repository.cache / "refs" / revision, self.commit)

    def path(self, name: str) -> Path:
        """Where a file lies once it is fetched."""
        return self.folder / name


def snapshot(repository: Repository, *, download: bool = True) -> Snapshot:
    """The commit that a revision stands for now, with its files; nothing but the list of files is downloaded.

    Where the hub is away, the commit that it stood for last.

    Args:
        download: whether the network may be used.

    Raises:
        InputError: of the repository's kind; there is no such repository or revision, or none here and the hub is away.
    """
    commit, closed = _resolved(repository, download)
    files = _read(_manifest(repository, commit))
    if files is None and closed is None:
        files, closed = _listed(repository, commit)
    if files is not None:
        return Snapshot(repository, commit, files, closed=closed)
    here = _present(repository.cache / "snapshots" / commit)
    if not here:
        raise repository.error(f"not in the local cache, and {closed}")
    shown().message(f"{repository.where}: which files it should have is not known here; those that are here are used")
    return Snapshot(repository, commit, here, listed=False, closed=closed)


def _manifest(repository: Repository, commit: str) -> Path:
    return repository.cache / "reliquant" / f"{commit}.json"


def _resolved(repository: Repository, download: bool) -> tuple[str, str | None]:
    """The commit, and why nothing can be downloaded."""
    cached = repository.cached_commit()
    if cached is not None and cached == repository.revision and _manifest(repository, cached).is_file() and download:
        return cached, _forbidden(repository)  # a commit does not move: the hub is asked only for missing files
    closed = "the network is not used here" if not download else _forbidden(repository)
    if closed is None:
        try:
            return _asked(repository, tries=TRIES if cached is None else 1), None
        except ReliquantError as error:
            if cached is None:
                raise
            closed = _used_instead(repository, cached, error)
    if cached is None:
        raise repository.error(f"not in the local cache, and {closed}")
    return cached, closed


def _forbidden(repository: Repository) -> str | None:
    """Why the hub is not asked at all."""
    from huggingface_hub import constants

    if not constants.HF_HUB_OFFLINE:
        return None
    return f"HF_HUB_OFFLINE=1 forbids the download; unset it, or {_INSTEAD[repository.kind]}"


def _used_instead(repository: Repository, cached: str, error: ReliquantError) -> str:
    """Say that a cached commit is used; why."""
    told = str(error).removeprefix(f"{repository.where}: ")
    shown().message(f"{repository.where}: using {cached[:8]} from the cache, since {told.partition('; ')[0]}")
    return told


def _asked(repository: Repository, tries: int) -> str:
    """The commit, from the hub."""
    from huggingface_hub import HfApi, constants

    if (why := unreachable(constants.ENDPOINT)) is not None:
        raise repository.error(f"{constants.ENDPOINT} cannot be reached ({why}); {_way_out(repository)}")
    with _told(repository), patient(repository.where, tries):
        info = HfApi().repo_info(repository.name, repo_type=repository.kind, revision=repository.revision)
    if not info.sha or not COMMIT.fullmatch(info.sha):
        raise repository.error(f"{repository.page} names no commit; is HF_ENDPOINT a hub?")
    return str(info.sha)


def _listed(repository: Repository, commit: str) -> tuple[dict[str, str] | None, str | None]:
    """The files of a commit with the names of their contents; or why the hub does not tell, where some are here."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    options: dict[str, Any] = {"recursive": True, "revision": commit, "repo_type": repository.kind}
    try:
        with _told(repository), patient(repository.where):
            entries = list(HfApi().list_repo_tree(repository.name, **options))
    except ReliquantError as error:
        if not _present(repository.cache / "snapshots" / commit):
            raise
        return None, _used_instead(repository, commit, error)
    found = [entry for entry in entries if isinstance(entry, RepoFile) and ".." not in entry.path.split("/")]
    files = {entry.path: entry.lfs.sha256 if entry.lfs else entry.blob_id for entry in found}
    _write(_manifest(repository, commit), json.dumps({"commit": commit, "files": files}, indent=0))
    return files, None


def _download(snapshot: Snapshot, name: str) -> None:
    from huggingface_hub import hf_hub_download

    repository = snapshot.repository
    bar = download_bar(f"{repository.name}/{name}")
    options: dict[str, Any] = {"repo_type": repository.kind, "revision": snapshot.commit, "tqdm_class": bar}
    with _told(repository, name), patient(f"{repository.where}: {name}"):
        hf_hub_download(repository.name, name, etag_timeout=TIMEOUT, **options)


@contextmanager
def _told(repository: Repository, name: str | None = None) -> Iterator[None]:
    """Turn what the client raises into one line of ours. Args: name: of the file that is downloaded."""
    try:
        yield
    except (ReliquantError, MemoryError):
        raise
    except Exception as error:  # the client, what it stands on, and what that stands on each have their own
        raise repository.error(_advice(error, repository, name)) from error


def _advice(error: Exception, repository: Repository, name: str | None) -> str:
    """What went wrong and what to do, for each kind of error its own."""
    from huggingface_hub import errors

    chain = [error, *(each for each in (error.__cause__, error.__context__) if each is not None)]
    status = next((s for each in chain if (s := getattr(getattr(each, "response", None), "status_code", None))), None)

    def is_a(kind: type[BaseException]) -> bool:
        return any(isinstance(each, kind) for each in chain)

    if is_a(errors.GatedRepoError):
        login = "this account has no access yet" if status == 403 else "then log in: `hf auth login`, or HF_TOKEN"
        return f"gated: accept its terms at {repository.page}; {login}"
    if is_a(errors.RepositoryNotFoundError):
        way = "check the name, or log in (`hf auth login`, or HF_TOKEN)"
        return f"no such repository on the hub, or it is private: {way}"
    if is_a(errors.RevisionNotFoundError):
        return f"no revision '{repository.revision}' there; {repository.page}/tree/main lists branches and tags"
    if is_a(errors.EntryNotFoundError) and status == 404:
        return f"the hub has no file {name} there"
    if is_a(errors.HFValidationError):
        return reason(error)
    if status == 401:
        return "the hub refuses the token (401): log in again with `hf auth login`, or unset HF_TOKEN"
    if status == 403:
        return f"the hub forbids it (403: {reason(error)}): check the rights of the token, or the firewall"
    what = "" if name is None else f"{name} cannot be fetched: "
    kept = "" if name is None else f"; whole files are kept, {name} starts from its first byte"
    return f"{what}{_trouble(error, chain, repository)}{kept}"


def _trouble(error: Exception, chain: Sequence[BaseException], repository: Repository) -> str:
    """What is no refusal: a server or a network that does not work now, a full disk."""
    if isinstance(error, Unavailable) and error.wait is not None:
        return f"{error} and asks to wait {duration(error.wait)}; run the same command again then"
    if isinstance(error, Unavailable) and error.status is not None:
        return f"{error}; run the same command again later"
    for each in chain:
        if isinstance(each, OSError) and is_local(each):
            return f"{reason(each)} ({each.filename or repository.cache}; HF_HOME names another folder)"
    if isinstance(error, Unavailable) or any(map(is_transport, chain)):
        return f"{reason(error)}; run the same command again, or {_way_out(repository)}"
    return f"{type(error).__name__}: {reason(error)}"


def _way_out(repository: Repository) -> str:
    return f"set HF_HUB_OFFLINE=1 to use only what is cached, or {_INSTEAD[repository.kind]}"


def _present(folder: Path) -> dict[str, str]:
    """Files that are here -> what names their content: in the client's cache the names of the files they link to."""
    found = {}
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        if path.is_file():
            blob = path.resolve().name
            known = path.is_symlink() and re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", blob)
            found[path.relative_to(folder).as_posix()] = blob if known else file_digest(path)
    return found


def _read(manifest: Path) -> dict[str, str] | None:
    """The files of a commit; None where there is no manifest that can be read."""
    try:
        files = json.loads(manifest.read_text(encoding="utf-8"))["files"]
        return {str(name): str(content) for name, content in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _write(path: Path, text: str) -> None:
    """Write a small file whole or not at all; a cache that is read-only stays as it is."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).replace(path)
    except OSError:
        return
