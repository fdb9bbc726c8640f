"""One generic registry: lazy entry points, duplicates refused, "did you mean" on unknown names.

Built-in plugins and a stranger's package come in by the same door, the entry-point groups `reliquant.tasks`,
`reliquant.quantizers`, `reliquant.trackers` and `reliquant.sources`. Nothing is imported before it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar, cast

from benchmark import siblings
from benchmark.errors import PluginError, UnknownNameError
from benchmark.utils.guard import described
from benchmark.utils.signals import is_stop

T = TypeVar("T")


@dataclass(frozen=True)
class Origin:
    """Where a plugin comes from: a distribution (`reliquant`, `my-plugin`) or an included file."""

    distribution: str
    target: str


class Registry(Generic[T]):
    """Names to plugins of one kind.

    Args:
        kind: the word used in messages ("task", "quantizer", ...).
        group: the entry-point group.
        base: class that every plugin object must be an instance of; as `module:Class` it is imported when it is needed.
    """

    def __init__(self, kind: str, group: str, base: type[Any] | str) -> None:
        self.kind, self.group, self._base = kind, group, base
        self._added: dict[str, tuple[T, Origin]] = {}
        self._loaded: dict[str, T] = {}

    @cached_property
    def base(self) -> type[Any]:
        """Class that every plugin object must be an instance of."""
        if isinstance(self._base, str):
            module, _, name = self._base.partition(":")
            kind: type[Any] = getattr(import_module(module), name)
            return kind
        return self._base

    @cached_property
    def _entry_points(self) -> dict[str, EntryPoint]:
        found: dict[str, EntryPoint] = {}
        for point in entry_points(group=self.group):
            other = found.setdefault(point.name, point)
            if other.value != point.value:
                raise PluginError(
                    f"two installed packages provide the {self.kind} '{point.name}': "
                    f"{_origin(other).distribution} ({other.value}) and {_origin(point).distribution} "
                    f"({point.value}); uninstall one of them"
                )
        return found

    def names(self) -> list[str]:
        """All names, sorted; imports no plugin."""
        return sorted({*self._entry_points, *self._added})

    def origin(self, name: str) -> Origin:
        """Distribution and import target of a plugin; imports nothing."""
        if name in self._added:
            return self._added[name][1]
        return _origin(self._point(name))

    def get(self, name: str) -> T:
        """The plugin called `name`.

        Raises:
            UnknownNameError: nobody provides it; the message suggests the nearest name.
            PluginError: its module cannot be imported, or the object is of another type.
        """
        if name in self._added:
            return self._added[name][0]
        if name not in self._loaded:
            point = self._point(name)
            try:
                plugin = _load(point)
            except BaseException as error:  # a stranger's module may raise anything at import
                if is_stop(error):
                    raise
                conflict = siblings.conflict() if _is_ours(point) else None
                reason = conflict.line if conflict is not None and conflict.fatal else described(error)
                raise PluginError(f"the {self.kind} '{name}' ({point.value}) cannot be imported: {reason}") from error
            self._loaded[name] = self._checked(name, plugin)
        return self._loaded[name]

    def add(self, name: str, plugin: T, origin: Origin) -> None:
        """Register a plugin for this process (an included file, a test). Refuses a name that exists."""
        if name in self.names():
            raise PluginError(f"the {self.kind} '{name}' exists already (from {self.origin(name).distribution})")
        self._added[name] = (self._checked(name, plugin), origin)

    def remove(self, name: str) -> None:
        """Forget a plugin that `add` registered."""
        del self._added[name]

    def __iter__(self) -> Iterator[tuple[str, T]]:
        for name in self.names():
            yield name, self.get(name)

    def __contains__(self, name: object) -> bool:
        return name in self.names()

    def _point(self, name: str) -> EntryPoint:
        if name not in self._entry_points:
            raise UnknownNameError(self.kind, name, self.names())
        return self._entry_points[name]

    def _checked(self, name: str, plugin: object) -> T:
        if not isinstance(plugin, self.base):
            raise PluginError(f"the {self.kind} '{name}' is a {type(plugin).__name__}, expected {self.base.__name__}")
        if getattr(plugin, "name", name) != name:
            raise PluginError(f"the {self.kind} registered as '{name}' calls itself '{getattr(plugin, 'name', '')}'")
        return cast(T, plugin)


def _load(point: EntryPoint) -> object:
    """What an entry point names; one of ours comes from our own files, whatever lies in the current folder."""
    if _is_ours(point):
        return getattr(import_module(siblings.own(point.module)), point.attr)
    return point.load()


def _is_ours(point: EntryPoint) -> bool:
    return point.dist is not None and point.dist.name == siblings.NAME


def _origin(point: EntryPoint) -> Origin:
    return Origin(point.dist.name if point.dist else "unknown", point.value)
