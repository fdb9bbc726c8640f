"""Create and resume studies: their stored settings, search space and content hashes."""

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

from . import samplers
from .objective import COSTS, EFFECTIVE_BITS, Objective, parse_constraint
from .request import SearchConfig
from .space import Space

TRIALS = 40
PROBABILITY = 0.8
"""With which each headline metric has to stay within its margin on the validation split."""
MOST_NAMED = 4
"""A refusal names at most so many changed parts."""
SETTINGS, SPACE, CONTENTS = "settings", "space", "contents"


def merged(config: SearchConfig, before: Mapping[str, Any], study: str) -> SearchConfig:
    """New settings on top of those that a study was created with.

    Raises:
        SpecError: a setting differs that must stay the same within a study.
    """
    for name, value in asdict(config).items():
        kept = before.get(name)
        if value is not None and _plain(value) != kept and name not in ("trials", "sampler", "seed"):
            raise SpecError(
                f"study '{study}': it was created with {name} {json.dumps(kept)}, not {json.dumps(_plain(value))}. "
                "Leave it out to resume, or start another study with --name."
            )
    given = {name: value for name, value in asdict(config).items() if value is not None}
    return checked(SearchConfig(**{**before, **given}))


def with_defaults(config: SearchConfig) -> SearchConfig:
    """The settings with the defaults of a new study.

    Raises:
        InputError: an unknown sampler, or a number out of range.
    """
    given = {name: value for name, value in asdict(config).items() if value is not None}
    default: dict[str, Any] = {"suite": "demo", "sampler": samplers.DEFAULT, "seed": 0, "trials": TRIALS}
    default |= dict.fromkeys(("objectives", "constraints", "methods", "scopes", "models", "data", "artifacts"), ())
    if not config.objectives:
        default |= {"minimize": EFFECTIVE_BITS, "probability": PROBABILITY}
    default |= {"per_layer": 0}
    return checked(SearchConfig(**{**default, **given}))


def checked(config: SearchConfig) -> SearchConfig:
    """The settings themselves, after a check of sampler, numbers, objectives and constraints.

    Raises:
        InputError: the first problem.
    """
    samplers.check_sampler(config.sampler or "")
    if config.trials is not None and config.trials < 1:
        raise SpecError(f"--trials {config.trials}: too few. Give 1 or more.")
    _check_goal(config)
    _refuse_repeats("--objective", [(key, key) for key in config.objectives or ()])
    constraints = [(text, replace(parse_constraint(text), text="")) for text in config.constraints or ()]
    _refuse_repeats("--constraint", constraints)
    if config.seed is not None and config.seed < 0:
        raise SpecError(f"--seed {config.seed}: negative. Give 0 or more.")
    return config


def _check_goal(config: SearchConfig) -> None:
    for option, value in (("--minimize", config.minimize), ("--probability", config.probability)):
        if config.objectives and value is not None:
            raise SpecError(
                f"{option} and --objective contradict each other: with a goal the cost is the one objective."
            )
    if config.minimize is not None and config.minimize not in COSTS:
        raise UnknownNameError("cost (of --minimize)", config.minimize, COSTS)
    if config.probability is not None and not 0.5 <= config.probability < 1:
        raise SpecError(f"--probability {config.probability:g}: give 0.5 or more, and less than 1, e.g. 0.8.")
    if config.per_layer is not None and config.per_layer < 0:
        raise SpecError(f"--per-layer {config.per_layer}: negative. Name how many layers may get more bits, e.g. 3.")


def stored_settings(storage: BaseStorage, name: str, where: str) -> dict[str, Any]:
    """The settings of an existing study.

    Raises:
        UnknownNameError: there is no study of that name. SpecError: `reliquant search` did not make it.
    """
    check_name(name, "--resume")
    studies = {summary.study_name: summary for summary in optuna.get_all_study_summaries(storage)}
    if name not in studies:
        for summary in studies.values():
            if name == str(summary._study_id):
                raise InputError(
                    f"--resume {name}: that is a study's number in optuna-dashboard. "
                    f"Give its name: '{summary.study_name}'."
                )
        raise UnknownNameError(f"study in {where}", name, studies)
    kept = studies[name].user_attrs.get(SETTINGS)
    if not isinstance(kept, dict):
        raise SpecError(f"study '{name}': it was not made by reliquant search. Choose another --name.")
    return kept


def check_new(storage: BaseStorage, name: str) -> None:
    """Refuse the name of an existing study, and a name that cannot be a folder."""
    check_name(name, "--name")
    if name in (summary.study_name for summary in optuna.get_all_study_summaries(storage)):
        raise InputError(f"study '{name}': it exists already. Go on with --resume {name}, or choose another --name.")


def create_study(
    storage: BaseStorage,
    name: str,
    config: SearchConfig,
    space: Space,
    objectives: Sequence[Objective],
    contents: Mapping[str, str],
) -> optuna.Study:
    """Create a study and store its settings in it.

    Args:
        contents: content hashes of model, data and tasks, by name.

    Raises:
        InputError: another process has created it meanwhile.
    """
    try:
        directions = [objective.direction for objective in objectives]
        study = optuna.create_study(storage=storage, study_name=name, directions=directions)
    except DuplicatedStudyError:
        raise InputError(
            f"study '{name}': it exists already. Go on with --resume {name}, or choose another --name."
        ) from None
    study.set_user_attr("objectives", [objective.key for objective in objectives])
    study.set_user_attr(SPACE, space.digest())
    study.set_user_attr(CONTENTS, dict(contents))
    study.set_user_attr(SETTINGS, {key: _plain(value) for key, value in asdict(config).items()})
    return study


def resume_study(storage: BaseStorage, name: str, space: Space, contents: Mapping[str, str]) -> optuna.Study:
    """Load an existing study.

    Raises:
        SpecError: it was created with another space, or with another content of suite, data or model.
    """
    study = optuna.load_study(study_name=name, storage=storage)
    if study.user_attrs.get(SPACE) != space.digest():
        raise SpecError(
            f"study '{name}': it was created with another space (its methods, their versions or the blocks differ). "
            "Start another study with --name."
        )
    kept = study.user_attrs.get(CONTENTS, {})
    if changed := sorted(part for part in kept | contents if kept.get(part) != contents.get(part)):
        more = f" and {len(changed) - MOST_NAMED} more" if len(changed) > MOST_NAMED else ""
        raise SpecError(
            f"study '{name}': it was created with another content of {', '.join(changed[:MOST_NAMED])}{more}, so "
            "its trials are not comparable. Undo the change, or start another study with --name."
        )
    return study


def _refuse_repeats(option: str, given: Sequence[tuple[str, object]]) -> None:
    seen: dict[object, str] = {}
    for text, meaning in given:
        if meaning in seen:
            same = f" (as '{seen[meaning]}')" if seen[meaning] != text else ""
            raise SpecError(f"{option} '{text}': it is given twice{same}. Leave one of them out.")
        seen[meaning] = text


def _plain(value: Any) -> Any:
    """The value as JSON gives it back."""
    return json.loads(json.dumps(value))
