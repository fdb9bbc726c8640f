"""What a study is bound to: its settings, kept in it, and its space."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import BaseStorage

from benchmark.errors import InputError, SpecError, UnknownNameError
from benchmark.spec import check_name
from search import samplers
from search.objective import DEFAULT, Objective, parse_constraint
from search.request import SHARES, SearchConfig
from search.rungs import parse_shares
from search.space import Space

TRIALS = 100
MOST_NAMED = 4
"""Parts that a refusal names."""
SETTINGS, SPACE, CONTENTS = "settings", "space", "contents"


def over(config: SearchConfig, before: Mapping[str, Any], study: str) -> SearchConfig:
    """These settings over those that a study was created with.

    Raises:
        SpecError: something that the study is bound to differs.
    """
    for name, value in asdict(config).items():
        kept = before.get(name)
        if value is not None and _plain(value) != kept and name not in ("trials", "sampler", "seed"):
            raise SpecError(
                f"study '{study}' was created with {name} {json.dumps(kept)}, not {json.dumps(_plain(value))}; "
                "leave it out to resume, or start another study with --name"
            )
    given = {name: value for name, value in asdict(config).items() if value is not None}
    return checked(SearchConfig(**{**before, **given}))


def filled(config: SearchConfig) -> SearchConfig:
    """With the defaults of a new study.

    Raises:
        InputError: a sampler that nobody knows, or a number out of range.
    """
    given = {name: value for name, value in asdict(config).items() if value is not None}
    default = {"suite": "demo", "objectives": DEFAULT, "sampler": samplers.DEFAULT, "seed": 0, "trials": TRIALS}
    default |= {"per_block": False, "methods": (), "scopes": (), "constraints": (), "models": (), "data": ()}
    default |= {"rungs": SHARES}
    return checked(SearchConfig(**{**default, **given}))


def checked(config: SearchConfig) -> SearchConfig:
    """Itself, where sampler and numbers can be used."""
    samplers.check_sampler(config.sampler or "")
    if config.trials is not None and config.trials < 1:
        raise SpecError(f"--trials: at least 1, got {config.trials}")
    parse_shares(config.rungs or ())
    _refuse_repeats("--objective", [(key, key) for key in config.objectives or ()])
    constraints = [(text, replace(parse_constraint(text), text="")) for text in config.constraints or ()]
    _refuse_repeats("--constraint", constraints)
    if config.seed is not None and config.seed < 0:
        raise SpecError(f"--seed: 0 or more, got {config.seed}")
    return config


def kept_settings(storage: BaseStorage, name: str, where: str) -> dict[str, Any]:
    """The settings of an existing study.

    Raises:
        UnknownNameError: there is none of that name. SpecError: it is somebody else's.
    """
    check_name(name, "--resume")
    studies = {summary.study_name: summary for summary in optuna.get_all_study_summaries(storage)}
    if name not in studies:
        for summary in studies.values():
            if name == str(summary._study_id):
                raise InputError(
                    f"--resume {name}: that is a study's number in optuna-dashboard; its name is '{summary.study_name}'"
                )
        raise UnknownNameError(f"study in {where}", name, studies)
    kept = studies[name].user_attrs.get(SETTINGS)
    if not isinstance(kept, dict):
        raise SpecError(f"study '{name}' was not made by reliquant search; choose another --name")
    return kept


def check_new(storage: BaseStorage, name: str) -> None:
    """Refuse the name of a study that exists, nothing is mixed by accident, and one that is no folder's name."""
    check_name(name, "--name")
    if name in (summary.study_name for summary in optuna.get_all_study_summaries(storage)):
        raise InputError(f"study '{name}' exists: go on with --resume {name}, or choose another --name")


def create_study(
    storage: BaseStorage,
    name: str,
    config: SearchConfig,
    space: Space,
    objectives: Sequence[Objective],
    contents: Mapping[str, str],
) -> optuna.Study:
    """A new study with its settings.

    Args:
        contents: part of what is evaluated -> its content hash.

    Raises:
        InputError: another process was faster.
    """
    try:
        directions = [objective.direction for objective in objectives]
        study = optuna.create_study(storage=storage, study_name=name, directions=directions)
    except DuplicatedStudyError:
        raise InputError(f"study '{name}' exists: go on with --resume {name}, or choose another --name") from None
    study.set_user_attr("objectives", [objective.key for objective in objectives])
    study.set_user_attr(SPACE, space.digest())
    study.set_user_attr(CONTENTS, dict(contents))
    study.set_user_attr(SETTINGS, {key: _plain(value) for key, value in asdict(config).items()})
    return study


def resume_study(storage: BaseStorage, name: str, space: Space, contents: Mapping[str, str]) -> optuna.Study:
    """An existing study.

    Raises:
        SpecError: it was created with another space, or with another content of suite, data or model.
    """
    study = optuna.load_study(study_name=name, storage=storage)
    if study.user_attrs.get(SPACE) != space.digest():
        raise SpecError(
            f"study '{name}' was created with another space (methods, their versions, or the model's blocks differ); "
            "start another study with --name"
        )
    kept = study.user_attrs.get(CONTENTS, {})
    if changed := sorted(part for part in kept | contents if kept.get(part) != contents.get(part)):
        more = f" and {len(changed) - MOST_NAMED} more" if len(changed) > MOST_NAMED else ""
        raise SpecError(
            f"study '{name}' was created with another content of {', '.join(changed[:MOST_NAMED])}{more}; its trials "
            "would not compare: take back the change, or start another study with --name"
        )
    return study


def _refuse_repeats(option: str, given: Sequence[tuple[str, object]]) -> None:
    seen: dict[object, str] = {}
    for text, meaning in given:
        if meaning in seen:
            same = f" (as '{seen[meaning]}')" if seen[meaning] != text else ""
            raise SpecError(f"{option} '{text}' is given twice{same}; leave one of them out")
        seen[meaning] = text


def _plain(value: Any) -> Any:
    """As it is after JSON."""
    return json.loads(json.dumps(value))
