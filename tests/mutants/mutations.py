"""The mutants of a file, by mutmut's operators; each is named so that it is found again after other edits."""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import libcst as cst
from libcst.metadata import ByteSpanPositionProvider, MetadataWrapper
from mutmut.mutation.mutators import mutation_operators

MODULE = "(module)"
TYPE_NAME = re.compile(r"[A-Z][a-z]\w*")


@dataclass(frozen=True, order=True)
class Place:
    """What is changed where: lines of a function before and after, blanks at the ends stripped, without their numbers.

    `nth`: of several that are equal in all of this, which one, from 0.
    """

    file: str
    function: str
    was: str
    becomes: str
    nth: int = 0

    def __str__(self) -> str:
        again = f" (number {self.nth + 1})" if self.nth else ""
        return f"{self.file} {self.function}{again}\n    - {self.was}\n    + {self.becomes}"


@dataclass(frozen=True)
class Mutant:
    """One mutant: its place, and the bytes from `start` to `end` of its file that `code` replaces.

    `lines`: those that a test must run to notice it, the closest first; none: it acts when the module is imported.
    """

    place: Place
    lines: tuple[range, ...] = field(compare=False)
    start: int = field(compare=False)
    end: int = field(compare=False)
    code: bytes = field(compare=False, repr=False)

    def applied(self, source: bytes) -> str:
        """The file's content with it."""
        return (source[: self.start] + self.code + source[self.end :]).decode()

    def compiles(self, source: bytes) -> bool:
        """Whether the file is Python with it."""
        try:
            compile(self.applied(source), self.place.file, "exec")
        except (SyntaxError, ValueError):
            return False
        return True


def mutants(root: Path, file: str) -> list[Mutant]:
    """All mutants of a file, in its order.

    Left out: imports, annotations and names of types, docstrings, texts with a blank (messages and titles are checked
    where the user meets them), and what is raised.
    """
    source = (root / file).read_bytes()
    wrapper = MetadataWrapper(cst.parse_module(source), unsafe_skip_copy=True)
    walk = _Walk(file, source, wrapper.module, wrapper.resolve(ByteSpanPositionProvider))
    seen: Counter[Place] = Counter()
    found = []
    for mutant in walk.below(wrapper.module, _Where((), None, None)):
        found.append(replace(mutant, place=replace(mutant.place, nth=seen[mutant.place])))
        seen[mutant.place] += 1
    return found


def rank(seed: int, place: Place) -> str:
    """A fixed random order: the mutants of unchanged lines keep theirs whatever happens elsewhere."""
    parts = (seed, place.file, place.function, place.was, place.becomes, place.nth)
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()


@dataclass(frozen=True)
class _Where:
    """Names of the functions and classes around a node, the lines of the function's body, those of its statement."""

    names: tuple[str, ...]
    body: range | None
    statement: range | None


@dataclass
class _Walk:
    file: str
    source: bytes
    module: cst.Module
    spans: Any

    def __post_init__(self) -> None:
        self.starts = [0, *(i + 1 for i, byte in enumerate(self.source) if byte == ord("\n"))]

    def below(self, node: cst.CSTNode, where: _Where) -> Iterator[Mutant]:
        """The mutants of a node and of all below it."""
        if _left_out(node, where):
            return
        if isinstance(node, cst.FunctionDef | cst.ClassDef):
            where = replace(where, names=(*where.names, node.name.value), statement=None)
        if isinstance(node, cst.FunctionDef):
            where = replace(where, body=self._lines(node.body))
        if isinstance(node, cst.SimpleStatementLine):
            where = replace(where, statement=self._lines(node))
        yield from self._of(node, where)
        for child in node.children:
            yield from self.below(child, where)

    def _of(self, node: cst.CSTNode, where: _Where) -> Iterator[Mutant]:
        for kind, operator in mutation_operators:
            for changed in operator(node) if isinstance(node, kind) else ():
                if not (isinstance(node, cst.SimpleString) and not _shortest(node, changed)):
                    mutant = self._mutant(node, changed, where)
                    if mutant is not None:
                        yield mutant

    def _mutant(self, node: cst.CSTNode, changed: cst.CSTNode, where: _Where) -> Mutant | None:
        span = self.spans[node]
        start, end = span.start, span.start + span.length
        old, code = (self.module.code_for_node(each).encode() for each in (node, changed))
        if isinstance(node, cst.BaseCompOp | cst.BaseBooleanOp | cst.BaseBinaryOp | cst.BaseAugOp):
            old, code = old.strip(), code.strip()
        if self.source[start:end] != old or old == code:
            return None
        first, last = self._line(start), self._line(max(start, end - 1))
        low, high = self.starts[first - 1], self.starts[last] if last < len(self.starts) else len(self.source)
        changed_text = self.source[low:start] + code + self.source[end:high]
        was, becomes = _changed_lines(self.source[low:high].decode(), changed_text.decode())
        place = Place(self.file, ".".join(where.names) or MODULE, was, becomes)
        inside = where.body is not None and first >= where.body.start
        ranges = (range(first, last + 1), where.statement, where.body) if inside else (where.body,)
        return Mutant(place, tuple(lines for lines in ranges if lines is not None), start, end, code)

    def _lines(self, node: cst.CSTNode) -> range:
        span = self.spans[node]
        return range(self._line(span.start), self._line(span.start + max(span.length - 1, 0)) + 1)

    def _line(self, offset: int) -> int:
        return bisect_right(self.starts, offset)


def _left_out(node: cst.CSTNode, where: _Where) -> bool:
    if isinstance(node, cst.Import | cst.ImportFrom | cst.Annotation | cst.Raise):
        return True
    if isinstance(node, cst.Expr):
        return isinstance(node.value, cst.SimpleString | cst.ConcatenatedString)
    if isinstance(node, cst.SimpleString):
        return " " in node.value
    if isinstance(node, cst.If):
        return isinstance(node.test, cst.Name) and node.test.value == "TYPE_CHECKING"
    if isinstance(node, cst.Assign | cst.AnnAssign) and not where.names:
        target = node.targets[0].target if isinstance(node, cst.Assign) else node.target
        return isinstance(target, cst.Name) and bool(target.value == "__all__" or TYPE_NAME.fullmatch(target.value))
    return False


def _shortest(node: cst.SimpleString, changed: cst.CSTNode) -> bool:
    """One mutant a text is enough: XX around it."""
    return isinstance(changed, cst.SimpleString) and changed.raw_value == f"XX{node.raw_value}XX"


def _changed_lines(was: str, becomes: str) -> tuple[str, str]:
    """Without the lines that both begin or end with; each line stripped, joined by a blank."""
    old, new = ([line.strip() for line in text.splitlines()] for text in (was, becomes))
    while len(old) > 1 and new and old[0] == new[0]:
        old, new = old[1:], new[1:]
    while len(old) > 1 and new and old[-1] == new[-1]:
        old, new = old[:-1], new[:-1]
    return " ".join(old), " ".join(new)
