"""`reliquant search`: prepare a study, run it, and judge its candidates on the test split."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict

from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from benchmark.engine.include import include_files
from benchmark.engine.plan import Settings, make_plan
from benchmark.engine.provenance import failure_lines
from benchmark.engine.requested import check_device, check_seconds
from benchmark.engine.run import run as run_plan
from benchmark.errors import INTERRUPTED, PARTIAL, TERMINATED, ReliquantError, SpecError, masked
from benchmark.ledger.records import Ledger
from benchmark.quantization import parse, quantizers
from benchmark.results.decide import Choice
from benchmark.results.reliability import near_floor
from benchmark.spec import ArtifactQuant, SuiteSpec
from benchmark.spec.suite import load_suite, narrow, with_quantizations
from benchmark.tracking import DEFAULT_TRACKER, trackers
from benchmark.utils.locking import exclusive
from benchmark.utils.output import out
from benchmark.utils.progress import Progress, Silent, open_progress
from benchmark.utils.signals import Terminated

from .evaluator import Engine
from .figures import write_figures
from .history import evaluated
from .mixed import harmful_layers
from .objective import (
    LATENCY,
    Constraint,
    Goals,
    Metrics,
    Objective,
    check_constraint,
    check_margins,
    make_goals,
    make_objective,
    parse_constraint,
)
from .recommend import Member, candidates, choice_of, grouped, groups_told, name_of, sentences
from .report import member_rows, print_members, print_verdicts, write_suite
from .request import SearchConfig, SearchRequest
from .settings import TRIALS, check_new, create_study, merged, resume_study, stored_settings, with_defaults
from .space import Choices, Space
from .splits import halved, suite_on_test, suite_on_validation
from .storage import journal_path, open_storage
from .study import Search, check_grid
from .tracking import TrialLog


def run_search(request: SearchRequest) -> int:
    """Search and report.

    Returns:
        the exit status: 0; 3 when there is no candidate or one failed on the test split; 130 when interrupted.
    """
    include_files(request.include)
    check_device(request.device)
    Ledger(request.home)
    storage = open_storage(request.home, request.storage)
    config = _config(request, storage)
    suite = narrow(
        load_suite(config.suite or "", config.data or (), request.catalogues),
        models=config.models or (),
        limit=config.limit,
        artifacts=config.artifacts or (),
    )
    with open_progress(request.quiet) as progress:
        search, log = _prepared(request, storage, config, suite, progress)
        try:
            with nullcontext() if log is None else log.ending():
                search.run(config.trials or TRIALS)
                return _finish(request, suite, search, log, progress)
        except KeyboardInterrupt as stop:
            progress.message(f"stopped; what is finished is kept. Go on with: {_resume(request, search)}")
            return TERMINATED if isinstance(stop, Terminated) else INTERRUPTED


def _settings(request: SearchRequest) -> Settings:
    limit = check_seconds(request.task_timeout, "--task-timeout")
    return Settings(request.device, request.batch_size, task_timeout=limit, allow_outside=request.allow_outside)


def _resume(request: SearchRequest, search: Search) -> str:
    """The command that resumes the study, ready for a shell; a password is masked, for the reader to fill in."""
    words = ["reliquant", "search", "--resume", search.study.study_name]
    words += [] if request.storage is None else ["--storage", masked(request.storage, request.storage)]
    words += [] if request.home == SearchRequest.home else ["--home", str(request.home)]
    return shlex.join(words)


def _config(request: SearchRequest, storage: BaseStorage) -> SearchConfig:
    """The settings of the command line; on resuming, the study's own settings fill in what it leaves out."""
    if request.resume is None:
        return with_defaults(request.config)
    where = request.storage or str(journal_path(request.home))
    where = masked(where, where)
    return merged(request.config, stored_settings(storage, request.resume, where), request.resume)


def _prepared(
    request: SearchRequest, storage: BaseStorage, config: SearchConfig, suite: SuiteSpec, progress: Progress
) -> tuple[Search, TrialLog | None]:
    """The study, ready to run. Checks the user's input before it evaluates full precision."""
    name = request.resume or request.name or f"{suite.name}-{config.sampler}-seed{config.seed}"
    if request.resume is None:
        check_new(storage, name)
    constraints = [parse_constraint(text) for text in config.constraints or ()]
    quiet = progress if sys.stderr.isatty() else Silent()
    engine = Engine(
        suite_on_validation(suite), _settings(request), request.home, progress, quiet, timed=_is_timed(config)
    )
    keys = [config.minimize] if config.minimize else [*(config.objectives or ())]
    objectives = [make_objective(key, engine.better, engine.known) for key in keys]
    for constraint in constraints:
        check_constraint(constraint, engine.known)
    space = Space(_choices(config, engine), engine.check)
    check_grid(config.sampler or "", space)
    resumed = None if request.resume is None else resume_study(storage, name, space, engine.contents)
    progress.message(_rule(suite, name))
    goals = _goals(config, engine, objectives, constraints, progress)
    log = _log(request, suite, name, config, goals)
    lock = request.home / "studies" / ".leases.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with nullcontext() if log is None else log.ending():
        study = resumed or create_study(storage, name, config, space, objectives, engine.contents)
        search = Search(
            study, space, engine.problem, goals, config.sampler or "", config.seed or 0, progress=progress, lock=lock
        )
        if log is not None:
            search.log = log.trial
            log.catch_up(study)
        with exclusive(request.home / "studies" / ".prepare.lock"):
            if not study.get_trials(
                deepcopy=False
            ):  # also if the process that created it was killed before it queued anything
                search.prepare(config.trials or TRIALS)
    return search, log


def _is_timed(config: SearchConfig) -> bool:
    asked = [config.minimize, *(config.objectives or ()), *(text.split()[0] for text in config.constraints or ())]
    return LATENCY in asked


def _goals(
    config: SearchConfig,
    engine: Engine,
    objectives: Sequence[Objective],
    constraints: Sequence[Constraint],
    progress: Progress,
) -> Goals:
    """The goals of the study. Evaluates full precision, and says what counts in none of them."""
    problem = engine.problem
    if config.minimize:
        check_margins(problem.headline, engine.suite.margins, engine.better)
    goals = make_goals(problem, objectives, constraints, config.probability if config.minimize else None)
    for key, why in goals.left_out.items():
        progress.message(f"reliability: {key} is left out: {why}")
    for key, floor in near_floor(goals.reference, goals.keys).items():
        progress.message(
            f"{key}: {goals.reference[key]:.4f} in full precision; a perfectly calibrated model would have {floor:.4f} "
            "on so few images, so its changes are mostly chance"
        )
    return goals


def _choices(config: SearchConfig, engine: Engine) -> Choices:
    """What to search over: by default every installed method; where the latency counts, those with real kernels."""
    everything = [name for name in quantizers.names() if name != "fp32" and quantizers.get(name).kind == "quantization"]
    if _is_timed(config):
        everything = [n for n in everything if quantizers.get(n).kernel == "real" or quantizers.get(n).is_stored]
    methods = tuple(dict.fromkeys(config.methods or everything))
    if "fp32" in methods:
        raise SpecError("--method fp32: the search always evaluates full precision. Name methods that quantize.")
    scopes = tuple(dict.fromkeys(config.scopes or Choices(()).scopes))
    if not config.per_layer:
        return Choices(methods, scopes)
    Space(Choices(methods, scopes), engine.check)  # a wrong name is refused before anything is evaluated
    if not any({"overrides", "weight_bits"} <= set(quantizers.get(name).fields) for name in methods):
        raise SpecError("--per-layer: none of the methods can give some layers more bits. Add one, e.g. --method rtn.")
    return Choices(methods, scopes, harmful=harmful_layers(engine, config.per_layer, scopes))


def _rule(suite: SuiteSpec, name: str) -> str:
    """One line: the validation split and the test split of each data set."""
    mapped = [f"{other} (for {own})" for own, other in suite.validation.items()]
    split = [f"half of {', '.join(sorted(halved(suite)))}"] if halved(suite) else []
    return f"study '{name}': validation split: {', '.join([*mapped, *split])}; the test split is the rest"


def _log(request: SearchRequest, suite: SuiteSpec, name: str, config: SearchConfig, goals: Goals) -> TrialLog | None:
    """The study's run in MLflow. Opened before the study is created, so that an unreachable store fails first."""
    if request.no_tracking:
        return None
    params = {key: json.dumps(value) for key, value in asdict(config).items() if value}
    (request.home / "studies").mkdir(parents=True, exist_ok=True)
    with exclusive(request.home / "studies" / ".mlflow.lock"):
        run = trackers.get(DEFAULT_TRACKER).open(request.home, request.tracking_uri).open_study(suite, name, params)
    return None if run is None else TrialLog(run, name, goals)


def _finish(request: SearchRequest, suite: SuiteSpec, search: Search, log: TrialLog | None, progress: Progress) -> int:
    """Judge the candidates on the test split; write table, figures, suite and the recommendation."""
    study, found = search.study, candidates(search.study, search.goals)
    folder = request.home / "studies" / study.study_name
    folder.mkdir(parents=True, exist_ok=True)
    if not found:
        print("no configuration satisfies the constraints, so there is no candidate", file=sys.stderr)
        if log is not None:
            log.finish(folder, _summary(search, [], write_figures(folder, study, search.goals, [], None)))
        return PARTIAL
    members, reference, warnings = _on_test(request, suite, found, search.goals, progress)
    choice = choice_of(members, search.goals.cost)
    words = [*sentences(members, choice, reference), *groups_told(members, search.goals.cost)]
    best = choice.recommended.name if choice.recommended else None
    write_suite(folder / "front.yaml", suite_on_test(suite), [name_of(trial) for trial in found], study.study_name)
    (folder / "recommendation.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    volume = write_figures(folder, study, search.goals, members, best)
    where = sys.stderr if request.json else sys.stdout
    if request.json:
        print("\n".join(json.dumps(row) for row in member_rows(members, search.goals, best)), file=out())
    else:
        print_members(members, search.goals)
        print_verdicts(members, best)
        print("\n".join(words))
    if log is not None:
        log.finish(folder, _summary(search, members, volume, choice))
        warnings += [] if log.broken is None else [f"warning: MLflow could not be written ({log.broken})"]
    for line in warnings:
        print(line, file=sys.stderr)
    done, trials = len(evaluated(study)), len(study.get_trials(deepcopy=False))
    print(f"{done} configurations in {trials} trials. Figures, suite and recommendation: {folder}", file=where)
    print(f"Look closer: reliquant run {shlex.quote(str(folder / 'front.yaml'))}", file=where)
    return PARTIAL if any(not each.metrics for each in members) else 0


def _summary(
    search: Search, members: Sequence[Member], volume: Metrics, choice: Choice | None = None
) -> dict[str, float]:
    """The numbers of the study's run in MLflow."""
    study, best = search.study, None if choice is None else choice.recommended
    counts = {
        "configurations": len(evaluated(study)),
        "trials": len(study.get_trials(deepcopy=False)),
        "candidates": sum(each.trial is not None for each in members),
    }
    chosen = {} if best is None else {f"recommended/{search.goals.cost}": best.cost}
    return {f"study/{name}": float(value) for name, value in {**counts, **chosen, **volume}.items()}


def _on_test(
    request: SearchRequest, suite: SuiteSpec, found: Sequence[FrozenTrial], goals: Goals, progress: Progress
) -> tuple[list[Member], Metrics, list[str]]:
    """Candidates and artifacts on the test split, tracked as any run; full precision's metrics there; failures."""
    test, settings = suite_on_test(suite), _settings(request)
    names = [name_of(trial) for trial in found]
    plan = make_plan(with_quantizations(test, names), settings)
    opened = [trackers.get(DEFAULT_TRACKER).open(request.home, request.tracking_uri)] if not request.no_tracking else []
    sweep = run_plan(plan, request.home, trackers=opened, progress=progress)
    warnings = failure_lines(sweep.failed) + [f"warning: {n}: {why}" for n, why in sweep.untracked.items()]
    engine = Engine(test, settings, request.home, timed=LATENCY in goals.keys)
    own = make_goals(engine.problem, goals.objectives, ())
    trials = dict(zip(names, found, strict=True))
    quants = {name: parse(name) for name in names}
    quants |= {name: ArtifactQuant(label=name, method="artifact") for name in test.artifacts}
    members = []
    for name, quant in quants.items():
        try:
            metrics = own.complete(engine.evaluate(quant))
            standing = engine.standing(quant)
            members.append(Member(name, trials.get(name), metrics, standing.decision, standing.reliability))
        except ReliquantError as reason:
            if name not in {record.quantization for record in sweep.failed}:
                warnings.append(f"warning: {name} has no value on the test split: {reason}")
            members.append(Member(name, trials.get(name), {}))
    return grouped(members, lambda a, b: engine.apart(quants[a], quants[b])), own.reference, warnings
