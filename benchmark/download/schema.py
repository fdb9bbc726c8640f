"""What can be downloaded, as frozen specifications: the form of `files.yaml` and of a user's own file."""

from __future__ import annotations

import fnmatch
import re
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from benchmark.errors import masked
from benchmark.spec.base import HUB_ID, Frozen, Name, Text

HIDDEN = ".reliquant"
"""Folder inside of a data set's folder with markers, unfinished files and locks; data sources skip hidden folders."""

DRIVE = "https://drive.google.com/file/d/{}/view"


def inside(text: str) -> str:
    """Refuse a path that could lead out of its folder, or into the folder of markers, with a ValueError."""
    parts = text.split("/")
    if not text or text.startswith("/") or "\\" in text or re.match(r"[A-Za-z]:", text):
        raise ValueError("expected a path relative to the folder above, with / between its parts")
    if any(part in ("", ".", "..") or part != part.strip() for part in parts):
        raise ValueError("holds an empty part, '.', '..' or a blank at the end of a part")
    if parts[0] == HIDDEN or re.search(r"[\x00-\x1f\x7f]", text) or max(len(part.encode()) for part in parts) > 200:
        raise ValueError(f"begins with {HIDDEN}, holds a control character or has a part of more than 200 bytes")
    return text


def _web(text: str) -> str:
    if urlsplit(text).scheme not in ("http", "https") or not urlsplit(text).hostname:
        raise ValueError("expected an address that begins with https:// or http://")
    return text


def _repository(text: str) -> str:
    if not re.fullmatch(HUB_ID, text):
        raise ValueError("expected the repository of a data set or model, ORG/NAME")
    return text


Inside = Annotated[str, AfterValidator(inside)]
Address = Annotated[str, AfterValidator(_web)]
Hub = Annotated[str, AfterValidator(_repository)]
Bytes = Annotated[int, Field(ge=0, le=10**15)]


def _digits(text: Any) -> Any:
    return text.lower() if isinstance(text, str) else text


Md5 = Annotated[str, BeforeValidator(_digits), Field(pattern=r"^[0-9a-f]{32}$")]
Sha256 = Annotated[str, BeforeValidator(_digits), Field(pattern=r"^[0-9a-f]{64}$")]


class Source(Frozen):
    """Where a file can be had: one of `hub`, `url`, `drive` and `manual`.

    `hub` is a repository (`type`: dataset or model) at a pinned `revision`, `path` the file in it. `drive` (a file id
    of Google Drive, whose quota answers with a page) and `manual` (what the user does, with a `link`) are printed.
    """

    hub: Hub | None = None
    type: Literal["dataset", "model"] = "dataset"
    revision: Text | None = None
    path: Inside | None = None
    url: Address | None = None
    drive: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{10,}$")] | None = None
    manual: Text | None = None
    link: Address | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        kinds = {"hub": self.hub, "url": self.url, "drive": self.drive, "manual": self.manual}
        given = [name for name, value in kinds.items() if value is not None]
        if len(given) != 1:
            raise ValueError(f"expected one of hub, url, drive and manual, got {' and '.join(given) or 'none'}")
        if self.hub is not None and (self.revision is None or self.path is None):
            raise ValueError("hub needs revision (a commit) and path (the file in the repository)")
        own = {"revision": self.hub, "path": self.hub, "link": self.manual}
        if stray := [name for name, kind in own.items() if kind is None and getattr(self, name) is not None]:
            raise ValueError(f"{stray[0]} does not go with {given[0]}")
        return self

    @property
    def by_hand(self) -> bool:
        """Whether the user has to get the file."""
        return self.drive is not None or self.manual is not None

    @property
    def shown(self) -> str:
        """The source in one line, without a password."""
        if self.hub is not None:
            return f"hub {self.hub}@{str(self.revision)[:12]} {self.path}"
        if self.drive is not None:
            return DRIVE.format(self.drive)
        return masked(self.url or " ".join(part for part in (self.manual, self.link) if part))


class Unpack(Frozen):
    """How an archive (tar, also compressed, or zip) becomes files of the data set's folder.

    `strip` drops so many leading folders of each member, `to` is a folder below the data set's, `only` a pattern (or
    several) that the members' paths match before anything is dropped, `keep` leaves the archive there, `bytes` is the
    unpacked size where a source states it.
    """

    strip: int = Field(default=0, ge=0, le=16)
    to: Inside | None = None
    only: Annotated[tuple[Text, ...], BeforeValidator(lambda v: (v,) if isinstance(v, str) else v)] = ()
    keep: bool = False
    bytes: Bytes | None = None

    def place(self, member: str) -> str | None:
        """Where a member lands, relative to the data set's folder; None for one that is left out.

        >>> Unpack(strip=1, to="images").place("top/a/b.png")
        'images/a/b.png'
        """
        path = PurePosixPath(member)
        if self.only and not any(fnmatch.fnmatchcase(str(path), pattern) for pattern in self.only):
            return None
        parts = path.parts[self.strip :]
        return "/".join([*([self.to] if self.to else []), *parts]) if parts else None


class File(Frozen):
    """One file, or with a `*` in its name all of a hub folder that match, with its sources in order.

    `bytes` and `md5` or `sha256` are what a published source states; a hub file in LFS has its own. `unverified` says
    why there is no sum. `optional`: only fetched when it is asked for by name.
    """

    bytes: Bytes | None = None
    md5: Md5 | None = None
    sha256: Sha256 | None = None
    unverified: Text | None = None
    sources: tuple[Source, ...] = Field(min_length=1)
    unpack: Unpack | None = None
    optional: bool = False

    @model_validator(mode="after")
    def _checked(self) -> Self:
        summed = self.md5 or self.sha256
        if not summed and not self.unverified and self.sources[0].hub is None:
            raise ValueError("has no md5 or sha256; give one, or say with unverified: REASON why there is none")
        return self


class Download(Frozen):
    """A data set that can be fetched.

    `folder` lies below the folder of all data. `provides`: names of the data catalogue that can be read afterwards.
    `needs`: other downloads that must be there first. `terms` are shown before the first byte.
    """

    about: Text
    terms: Text
    terms_url: Address | None = None
    provides: tuple[Name, ...] = ()
    needs: tuple[Name, ...] = ()
    folder: Inside
    files: dict[Inside, File] = Field(min_length=1)

    @model_validator(mode="after")
    def _patterns(self) -> Self:
        for name, file in self.files.items():
            if is_pattern(name):
                hub = file.sources[0].hub is not None and is_pattern(file.sources[0].path or "")
                if len(file.sources) != 1 or not hub or file.bytes is not None or file.md5 or file.sha256:
                    raise ValueError(
                        f"files.{name}: a pattern takes its files, sizes and sums from the hub: give one hub source "
                        "with a pattern as path, and no bytes, md5 or sha256"
                    )
            elif any(is_pattern(source.path or "") for source in file.sources):
                raise ValueError(f"files.{name}: the source's path is a pattern and the file's name is none")
        return self


def is_pattern(name: str) -> bool:
    """Whether a name stands for several files."""
    return "*" in name
