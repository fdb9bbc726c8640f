"""YAML files as plain data: the safe loader, made strict."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from benchmark.errors import SpecError

LARGEST_FILE = 1_000_000
LARGEST_CONTENT = 50_000
"""Bytes of a file, and values that it may stand for once its aliases are written out."""


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice (plain YAML drops the first), numbers beyond 64 bits and endless aliases."""

    def get_single_node(self) -> yaml.Node | None:
        """The file's content; a few aliases of aliases can stand for more than fits into memory."""
        node: yaml.Node | None = super().get_single_node()
        if node is not None and _written_out(node, {}) > LARGEST_CONTENT:
            message = f"with its aliases written out it has more than {LARGEST_CONTENT} values"
            raise yaml.constructor.ConstructorError(None, None, message, node.start_mark)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """A value; what its tag promises and its text is not (an impossible date) is an error with its line."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, AttributeError, LookupError) as error:
            raise yaml.constructor.ConstructorError(
                None, None, f"no {node.tag.rpartition(':')[2]}: {type(error).__name__}, {error}"[:200], node.start_mark
            ) from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping whose keys differ."""
        seen = set()
        for key, _ in node.value:
            text = getattr(key, "value", None)
            if isinstance(text, str) and key.tag != "tag:yaml.org,2002:merge":
                if (key.tag, text) in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the field '{text}' stands twice", key.start_mark
                    )
                seen.add((key.tag, text))
        return super().construct_mapping(node, deep)


def _written_out(node: yaml.Node, sizes: dict[int, int | None]) -> int:
    """How many values a node stands for.

    Raises:
        ConstructorError: it contains itself.
    """
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in sizes:
        sizes[id(node)] = None  # being counted
        below = [part for pair in node.value for part in (pair if isinstance(pair, tuple) else (pair,))]
        sizes[id(node)] = 1 + sum(_written_out(part, sizes) for part in below)
    size = sizes[id(node)]
    if size is None:
        raise yaml.constructor.ConstructorError(None, None, "an alias that contains itself", node.start_mark)
    return size


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    number = loader.construct_yaml_int(node)
    if abs(number) >= 2**63:
        raise yaml.constructor.ConstructorError(None, None, "a number is out of range", node.start_mark)
    return int(number)


_Loader.add_constructor("tag:yaml.org,2002:int", _integer)


def load_yaml(path: Path) -> Any:
    """Read a YAML file with the safe loader.

    Raises:
        SpecError: the file is missing, not text (UTF-8, or UTF-16 with a byte order mark), not YAML, larger than
            `LARGEST_FILE` or `LARGEST_CONTENT`, or holds a tag that is not plain data, a field twice or a number that
            is out of range. An error of the text names line and column.
    """
    return _parsed(path, lambda text: yaml.load(text, Loader=_Loader))


def place(path: Path, field: str) -> str:
    """Where a field stands in a YAML file that can be read, `line 7, column 12`; empty where it is not there.

    Args:
        field: dotted, e.g. `data.pets.limit` or `models.0`; where its end is not in the file, the last part that is.
    """
    node = _parsed(path, lambda text: yaml.compose(text, Loader=_Loader))
    mark, rest = None, field
    while rest:
        found = [pair for pair in _children(node) if rest == pair[0] or rest.startswith(f"{pair[0]}.")]
        if found:
            name, mark, node = max(found, key=lambda pair: len(pair[0]))
            rest = rest[len(name) + 1 :]
        else:  # a part that says which kind of value was tried, or a field that is missing
            rest = rest.partition(".")[2]
    return "" if mark is None else _at(mark)


def _children(node: yaml.Node | None) -> list[tuple[str, yaml.Mark, yaml.Node]]:
    """Name, place and content of each field or entry of a node."""
    if isinstance(node, yaml.MappingNode):
        return [(str(key.value), key.start_mark, child) for key, child in node.value]
    if isinstance(node, yaml.SequenceNode):
        return [(str(number), child.start_mark, child) for number, child in enumerate(node.value)]
    return []


def _parsed(path: Path, read: Callable[[str], Any]) -> Any:
    try:
        if path.is_file() and path.stat().st_size > LARGEST_FILE:
            raise SpecError(f"{path}: larger than {LARGEST_FILE} bytes: this is no suite or catalogue")
        return read(file_text(path))
    except FileNotFoundError:
        raise SpecError(f"{path}: no such file") from None
    except OSError as error:
        raise SpecError(f"{path}: cannot be read ({error})") from None
    except yaml.reader.ReaderError as error:
        where = _behind(file_text(path)[: error.position])
        raise SpecError(f"{path}: not valid YAML at {where} ({chr(error.character)!r} is not allowed)") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at {_at(mark)}" if mark else ""
        raise SpecError(f"{path}: not valid YAML{where} ({getattr(error, 'problem', None) or error})") from None
    except RecursionError:
        raise SpecError(f"{path}: not valid YAML (nested too deeply)") from None


def file_text(path: Path) -> str:
    """A file's text with `\\n` at line ends; editors on Windows write UTF-16, and byte order marks before UTF-8.

    Raises:
        SpecError: neither. OSError: the file cannot be read.
    """
    content = path.read_bytes()
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        where = _behind(content[: error.start].decode(error.encoding))
        wrong = f"not UTF-8 text at {where} (byte {content[error.start]:#x})"
        raise SpecError(f"{path}: {wrong}; save it as UTF-8") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _behind(before: str) -> str:
    """The place behind a text."""
    return f"line {before.count(chr(10)) + 1}, column {len(before) - before.rfind(chr(10))}"


def _at(mark: yaml.Mark) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}"
