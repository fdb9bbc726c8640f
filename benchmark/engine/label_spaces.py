"""Check, before anything is embedded, that classes and captions of a binding's data sets are what its task needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmark.data import Data
from benchmark.data.labels import alike
from benchmark.data.rows import check_captions as check_image_captions
from benchmark.errors import DataError, SpecError
from benchmark.plugins import Task

Names = Mapping[str, Mapping[str, Sequence[str]]]
"""Role -> data set -> its class names."""


def check_classes(task: Task, names: Names, where: str) -> None:
    """Check the label spaces of a binding against the declared roles of its task.

    Args:
        where: the binding, for the message.

    Raises:
        SpecError: names the role and the data set that does not fit.
    """
    for role in dict.fromkeys((*task.classes, *task.same_classes, *task.shared_classes)):
        for name, found in names.get(role, {}).items():
            if not found:
                raise SpecError(f"{where}: role '{role}': data set '{name}' has no classes (text: none)")
    for role, name, found, first, expected in _with_first(task.same_classes, names):
        if tuple(found) != tuple(expected):
            raise SpecError(f"{where}: role '{role}': data set '{name}' has other classes than '{first}'")
    for role, name, found, first, expected in _with_first(task.shared_classes, names):
        if not {*found} & {*expected}:
            raise SpecError(f"{where}: role '{role}': data set '{name}' shares no class with '{first}'")
        for own in found:
            if (other := alike(own, expected)) is not None:
                raise SpecError(
                    f"{where}: role '{role}': class '{own}' of '{name}' would not meet '{other}' of '{first}'; write "
                    "them alike"
                )


def check_captions(task: Task, roles: Mapping[str, Sequence[Data]], where: str) -> None:
    """Check that the data sets of the roles whose captions a task looks at have one for each image.

    Raises:
        SpecError: names the role, the data set, and the image.
    """
    for role in task.captions:
        for data in roles.get(role, ()):
            try:
                check_image_captions(data.captions, data.sample_ids)
            except DataError as error:
                raise SpecError(f"{where}: role '{role}': data set '{data.name}': {error}") from None


def _with_first(roles: Sequence[str], names: Names) -> list[tuple[str, str, Sequence[str], str, Sequence[str]]]:
    """Role, name and classes of each bound data set but the first, with name and classes of the first."""
    bound = [(role, name, found) for role in roles for name, found in names.get(role, {}).items()]
    return [(*each, bound[0][1], bound[0][2]) for each in bound[1:]]
