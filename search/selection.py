"""Two suites from one: what a search chooses on, and what its choice is told on (no winner's curse).

The rule, for each data set that a task uses:

1. `validation: {NAME: OTHER}` in the suite: chosen on OTHER, told on NAME. `{NAME: NAME}` uses all of it for both.
2. What quantizers calibrate on, and what is bound to a role `fit` (logit scales are tuned on it), belongs to the
   choosing: the report takes exactly the images that the selection took.
3. Images that would be on both sides, under whatever name, are split by sample id into two halves (`options:
   {half: a}`): choosing, calibrating and fitting see `a`, told is on `b`.
"""

from __future__ import annotations

from benchmark.spec import BindingSpec, DataSpec, SuiteSpec, digest

SELECTION, REPORT = "selection", "report"
_UNSCORED_ROLES = ("fit",)
_SAME_IMAGES = ("half", "part", "subset")
"""Options that choose among the images of a source."""


def selection_suite(suite: SuiteSpec) -> SuiteSpec:
    """The suite that a search chooses on, named `NAME.selection`."""
    return _renamed(suite, SELECTION, data=_chosen(suite))


def report_suite(suite: SuiteSpec) -> SuiteSpec:
    """The suite that the front is told on, named `NAME.report`; the suite itself where nothing has to change."""
    split, chosen = halved(suite), _chosen(suite)
    data = {name: _half(spec, "b") if name in split else spec for name, spec in suite.data.items()}
    apart: dict[str, str] = {}
    for name in _fitted(suite):
        if chosen[name] != data[name]:
            apart[name] = f"{name[:60]}.fit" if name in _scored(suite) else name
            data[apart[name]] = chosen[name]
    if data == suite.data:
        return suite
    tasks = {
        task: {label: _rebound(binding, apart) for label, binding in labels.items()}
        for task, labels in suite.tasks.items()
    }
    calibration = apart.get(suite.calibration, suite.calibration) if suite.calibration else None
    return _renamed(suite, REPORT, data=data, tasks=tasks, calibration=calibration)


def halved(suite: SuiteSpec) -> set[str]:
    """Names of the data sets that are told on one half only, the other half belongs to the choosing."""
    told = {name for name in _scored(suite) if suite.validation.get(name) != name}
    touched = {_origin(suite.data[suite.validation.get(name, name)]) for name in _scored(suite) | _fitted(suite)}
    return {name for name in told if _origin(suite.data[name]) in touched}


def _chosen(suite: SuiteSpec) -> dict[str, DataSpec]:
    """The data of the selection suite."""
    shared = {_origin(suite.data[name]) for name in halved(suite)}
    found = {}
    for name in suite.data:
        other = suite.validation.get(name, name)
        whole = suite.data[other]
        used = name in _scored(suite) | _fitted(suite)
        mine = used and _origin(whole) in shared and suite.validation.get(name) != name
        found[name] = _half(whole, "a") if mine else whole
    return found


def _bindings(suite: SuiteSpec) -> list[BindingSpec]:
    return [binding for labels in suite.tasks.values() for binding in labels.values()]


def _scored(suite: SuiteSpec) -> set[str]:
    return {n for b in _bindings(suite) for role in b.roles if role not in _UNSCORED_ROLES for n in b.data(role)}


def _fitted(suite: SuiteSpec) -> set[str]:
    """What is fitted or calibrated on."""
    found = {n for b in _bindings(suite) for role in b.roles if role in _UNSCORED_ROLES for n in b.data(role)}
    return found | ({suite.calibration} if suite.calibration else set())


def _origin(spec: DataSpec) -> str:
    """Names the images that a data set is made of, before any choice among them and any corruption."""
    options = [list(pair) for pair in spec.options if pair[0] not in _SAME_IMAGES]
    return digest([spec.source, spec.path, spec.split, options])


def _rebound(binding: BindingSpec, apart: dict[str, str]) -> BindingSpec:
    def names(role: str, bound: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if role not in _UNSCORED_ROLES:
            return bound
        return apart.get(bound, bound) if isinstance(bound, str) else tuple(apart.get(n, n) for n in bound)

    return binding.model_copy(update={"roles": {role: names(role, bound) for role, bound in binding.roles.items()}})


def _renamed(suite: SuiteSpec, suffix: str, **update: object) -> SuiteSpec:
    name = f"{suite.name[: 63 - len(suffix)]}.{suffix}"
    return suite.model_copy(update={"name": name, "validation": {}, **update})


def _half(spec: DataSpec, half: str) -> DataSpec:
    """A data set's half; one that already names a half stays as it is."""
    if spec.option("half") is not None:
        return spec
    return spec.model_copy(update={"options": tuple(sorted([*spec.options, ("half", half)]))})
