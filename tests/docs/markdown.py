"""Reads Markdown as the tests of the documentation need it: code blocks with their marks, links, headings."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parent.parent.parent
REPOSITORY: str = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Repository"]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])

_FENCE = re.compile(r"^( *)(`{3,}|~{3,})\s*(\S*)")
_MARK = re.compile(r"<!--\s*(not run|slow)\b(.*?)-->")
_CODE = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\(\s*<?([^)\s>]+)>?[^)]*\)|(?:src|srcset|href)=\"([^\"]+)\"")

Mark = Literal["not run", "slow"]


@dataclass(frozen=True)
class Block:
    """A fenced block. `mark` says that it is not run, or only by the slow tests, and `reason` why."""

    page: Path
    line: int
    language: str
    text: str
    mark: Mark | None = None
    reason: str = ""

    @property
    def place(self) -> str:
        """`file:line` of the fence."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    return list(blocks_of(page.read_text(encoding="utf-8"), page))


def blocks_of(text: str, page: Path = ROOT / "text") -> Iterator[Block]:
    """All fenced blocks of a text. A mark is a comment on the last line with text before the fence."""
    lines, number, before = text.splitlines(), 0, ""
    while number < len(lines):
        fence = _FENCE.match(lines[number])
        if fence is None:
            before = lines[number] if lines[number].strip() else before
            number += 1
            continue
        end = number + 1
        while end < len(lines) and not lines[end].strip().startswith(fence[2]):
            end += 1
        body = "\n".join(line.removeprefix(fence[1]) for line in lines[number + 1 : end])
        mark = _MARK.fullmatch(before.strip())
        kind: Mark | None = None if mark is None else "slow" if mark[1] == "slow" else "not run"
        yield Block(page, number + 1, fence[3], body, kind, "" if mark is None else mark[2].strip(" :"))
        number, before = end + 1, ""


def prose(text: str) -> str:
    """The text without its fenced blocks and comments; line numbers are not kept."""
    kept, fence = [], ""
    for line in text.splitlines():
        found = _FENCE.match(line)
        if fence:
            fence = "" if line.strip().startswith(fence) else fence
        elif found:
            fence = found[2]
        else:
            kept.append(line)
    return re.sub(r"<!--.*?-->", "", "\n".join(kept), flags=re.DOTALL)


def indented_code(text: str) -> list[str]:
    """Lines of indented code blocks: four blanks after an empty line, outside lists."""
    found, empty, listed = [], True, False
    for line in prose(text).splitlines():
        if not line.strip():
            empty = True
            continue
        if re.match(r" {0,3}([-*+]|\d+[.)]) ", line):
            listed = True
        elif not line.startswith(" "):
            listed = False
        if line.startswith("    ") and empty and not listed:
            found.append(line)
            continue
        empty = False
    return found


def inline_commands(text: str) -> list[str]:
    """What stands in backticks in the prose and begins with `reliquant `, on one line."""
    spans = (" ".join(match[2].split()) for match in _CODE.finditer(prose(text)))
    return [span for span in spans if span.startswith("reliquant ")]


def links(text: str) -> list[str]:
    """Targets of links and images in the prose, code excluded."""
    plain = _CODE.sub("", prose(text))
    return [first or second for first, second in _LINK.findall(plain)]


def local(link: str) -> str:
    """A link by whole address, as the package index needs it, to a file of ours: its path from `ROOT`."""
    return re.sub(rf"^{re.escape(REPOSITORY)}/(?:blob|tree|raw)/HEAD/", "/", link)


def anchors(text: str) -> set[str]:
    """GitHub's anchors of the headings."""
    found = set()
    for line in prose(text).splitlines():
        if heading := re.match(r"#{1,6} +(.*)", line):
            plain = re.sub(r"[^\w\- ]", "", heading[1].replace("`", "").lower())
            found.add(plain.strip().replace(" ", "-"))
    return found


def commands(script: str) -> list[list[str]]:
    """The commands of a shell block as words: comments removed, continued lines joined, `&&` and `|` split.

    What stands in a here-document belongs to no command.

    Raises:
        ValueError: a quote is not closed.
    """
    found, end = [], None
    for line in script.replace("\\\n", " ").splitlines():
        if end is not None:
            end = None if line.strip() == end else end
            continue
        words: list[str] = []
        for word in [*shlex.split(line, comments=True), "&&"]:
            if word not in ("&&", "|"):
                words.append(word)
            elif words:
                found.append(words)
                words = []
        if here := re.search(r"<<-?\s*['\"]?(\w+)", line):
            end = here[1]
    return found
