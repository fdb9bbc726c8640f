"""Two suites from one: what a search chooses on, and what its choice is told on (no winner's curse).

The rule, for each data set that a task uses:

1. `validation: {NAME: OTHER}` in the suite: chosen on OTHER, told on NAME. `{NAME: NAME}` uses all of it for both.
2. The calibration set, and what is bound to a role `fit`: the same for both, nothing is scored on them.
3. Any other: split by sample id into two halves (`options: {half: a}`), chosen on `a`, told on `b`.
"""

from __future__ import annotations

from collections.abc import Mapping

from benchmark.spec import BindingSpec, DataSpec, SuiteSpec

SELECTION, REPORT = "selection", "report"
_UNSCORED_ROLES = ("fit",)


def selection_suite(suite: SuiteSpec) -> SuiteSpec:
    """The suite that a search chooses on, named `NAME.selection`."""
    return _halved(suite, suite.validation, "a", SELECTION)


def report_suite(suite: SuiteSpec) -> SuiteSpec:
    """The suite that the front is told on, named `NAME.report`; the suite itself where nothing had to be halved."""
    return _halved(suite, {}, "b", REPORT) if halved(suite) else suite


def halved(suite: SuiteSpec) -> set[str]:
    """Names of the data sets that are split."""
    bindings = [binding for labels in suite.tasks.values() for binding in labels.values()]
    used = {n for b in bindings for role in b.roles if role not in _UNSCORED_ROLES for n in b.data(role)}
    fitted = {n for b in bindings for role in b.roles if role in _UNSCORED_ROLES for n in b.data(role)}
    return used - fitted - set(suite.validation) - ({suite.calibration} if suite.calibration else set())


def _halved(suite: SuiteSpec, instead: Mapping[str, str], half: str, suffix: str) -> SuiteSpec:
    split = halved(suite)
    data = {name: _half(spec, half) if name in split else spec for name, spec in suite.data.items()}
    data |= {name: suite.data[other] for name, other in instead.items()}
    tasks: dict[str, dict[str, BindingSpec]] = dict(suite.tasks)
    update = {"name": f"{suite.name[: 63 - len(suffix)]}.{suffix}", "data": data, "tasks": tasks, "validation": {}}
    return suite.model_copy(update=update)


def _half(spec: DataSpec, half: str) -> DataSpec:
    """A data set's half; one that already names a half stays as it is."""
    if spec.option("half") is not None:
        return spec
    return spec.model_copy(update={"options": tuple(sorted([*spec.options, ("half", half)]))})
