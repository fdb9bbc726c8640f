"""YAML files as plain data: the safe loader, made strict."""

from __future__ import annotations

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
        SpecError: the file is missing, not UTF-8, not YAML, larger than `LARGEST_FILE` or `LARGEST_CONTENT`, or holds
            a tag that is not plain data, a field twice or a number that is out of range.
    """
    try:
        if path.is_file() and path.stat().st_size > LARGEST_FILE:
            raise SpecError(f"{path}: larger than {LARGEST_FILE} bytes: this is no suite or catalogue")
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        raise SpecError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        raise SpecError(f"{path}: not valid YAML{line} ({getattr(error, 'problem', None) or error})") from None
    except RecursionError:
        raise SpecError(f"{path}: not valid YAML (nested too deeply)") from None
