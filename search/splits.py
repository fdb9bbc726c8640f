"""Split a suite into a validation suite, on which a search chooses, and a test suite, on which the front is reported.

Values on the data that the search chose on would be too good (the winner's curse). For each data set that a task uses:

1. `validation: {NAME: OTHER}` in the suite: OTHER is the validation split, NAME the test split. `{NAME: NAME}` uses
   all images for both.
2. Data that quantizers calibrate on, or that is bound to a role `fit` (temperature scaling), belongs to the validation
   split: the test suite calibrates and fits on exactly the same images.
3. Images that would be in both splits, under whatever name, are halved by sample id (`options: {half: a}`): half `a` is
   for validation, calibration and fitting, half `b` is for the test.
"""

from __future__ import annotations

from benchmark.spec import BindingSpec, DataSpec, SuiteSpec, digest
from benchmark.spec.suite import FITTED_ROLES

VALIDATION, TEST = "validation", "test"
_SAME_IMAGES = ("half", "part", "subset")
"""Options that choose among the images of a source."""


def suite_on_validation(suite: SuiteSpec) -> SuiteSpec:
    """The suite on its validation split, on which a search chooses; named `NAME.validation`."""
    return _renamed(suite, VALIDATION, data=_validation_data(suite))


def suite_on_test(suite: SuiteSpec) -> SuiteSpec:
    """The suite on its test split, on which the front is reported.

    It is named `NAME.test`; where nothing has to change it is the suite itself.
    """
    split, validation = halved(suite), _validation_data(suite)
    data = {name: _half(spec, "b") if name in split else spec for name, spec in suite.data.items()}
    apart: dict[str, str] = {}
    for name in _fitted(suite):
        if validation[name] != data[name]:
            apart[name] = f"{name[:60]}.fit" if name in _scored(suite) else name
            data[apart[name]] = validation[name]
    if data == suite.data:
        return suite
    tasks = {
        task: {label: _rebound(binding, apart) for label, binding in labels.items()}
        for task, labels in suite.tasks.items()
    }
    calibration = apart.get(suite.calibration, suite.calibration) if suite.calibration else None
    return _renamed(suite, TEST, data=data, tasks=tasks, calibration=calibration)


def halved(suite: SuiteSpec) -> set[str]:
    """Names of the data sets whose images are in both splits, so that each split gets one half of them."""
    test = {name for name in _scored(suite) if suite.validation.get(name) != name}
    touched = {_origin(suite.data[suite.validation.get(name, name)]) for name in _scored(suite) | _fitted(suite)}
    return {name for name in test if _origin(suite.data[name]) in touched}


def _validation_data(suite: SuiteSpec) -> dict[str, DataSpec]:
    """The data sets of the validation suite."""
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
    return {n for b in _bindings(suite) for role in b.roles if role not in FITTED_ROLES for n in b.data(role)}


def _fitted(suite: SuiteSpec) -> set[str]:
    """Names of the data sets that are used for fitting or calibration."""
    found = {n for b in _bindings(suite) for role in b.roles if role in FITTED_ROLES for n in b.data(role)}
    return found | ({suite.calibration} if suite.calibration else set())


def _origin(spec: DataSpec) -> str:
    """A hash that identifies the images of a data set, before any choice among them and any corruption."""
    options = [list(pair) for pair in spec.options if pair[0] not in _SAME_IMAGES]
    return digest([spec.source, spec.path, spec.split, options])


def _rebound(binding: BindingSpec, apart: dict[str, str]) -> BindingSpec:
    def names(role: str, bound: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if role not in FITTED_ROLES:
            return bound
        return apart.get(bound, bound) if isinstance(bound, str) else tuple(apart.get(n, n) for n in bound)

    return binding.model_copy(update={"roles": {role: names(role, bound) for role, bound in binding.roles.items()}})


def _renamed(suite: SuiteSpec, suffix: str, **update: object) -> SuiteSpec:
    name = f"{suite.name[: 63 - len(suffix)]}.{suffix}"
    return suite.model_copy(update={"name": name, "validation": {}, **update})


def _half(spec: DataSpec, half: str) -> DataSpec:
    """One half of a data set; a specification that already names a half stays as it is."""
    if spec.option("half") is not None:
        return spec
    return spec.model_copy(update={"options": tuple(sorted([*spec.options, ("half", half)]))})
