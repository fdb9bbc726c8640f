"""What `reliquant search` does: the pieces put together."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace

from optuna import Study
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from benchmark.engine.include import include_files
from benchmark.engine.plan import Settings, make_plan
from benchmark.engine.provenance import failure_lines
from benchmark.engine.requested import check_device, check_seconds
from benchmark.engine.run import run as run_plan
from benchmark.errors import INTERRUPTED, PARTIAL, TERMINATED, SpecError, UndefinedMetric, masked
from benchmark.ledger.records import Ledger
from benchmark.quantization import parse, quantizers
from benchmark.results.reliability import near_floor
from benchmark.spec import SuiteSpec
from benchmark.spec.suite import load_suite, narrow
from benchmark.tracking import DEFAULT_TRACKER, trackers
from benchmark.utils.locking import exclusive
from benchmark.utils.output import out
from benchmark.utils.progress import Progress, Silent, open_progress
from benchmark.utils.signals import Terminated
from search.evaluator import Engine
from search.history import early, evaluated, front
from search.objective import DEFAULT, Goals, Metrics, check_constraint, make_goals, make_objective, parse_constraint
from search.report import front_rows, print_front, write_figures, write_suite
from search.request import SearchConfig, SearchRequest
from search.rungs import make_rungs, parse_shares
from search.selection import halved, report_suite, selection_suite
from search.settings import (
    TRIALS,
    check_new,
    create_study,
    filled,
    kept_settings,
    over,
    resume_study,
)
from search.space import Choices, Space
from search.storage import journal_path, open_storage
from search.study import Search, check_grid
from search.tracking import TrialLog


def run_search(request: SearchRequest) -> int:
    """Search and report; returns the exit status (0; 3 when something failed on the report data; 130 when stopped)."""
    include_files(request.include)
    check_device(request.device)
    Ledger(request.home)
    storage = open_storage(request.home, request.storage)
    config = _config(request, storage)
    suite = narrow(
        load_suite(config.suite or "", config.data or (), request.catalogues),
        models=config.models or (),
        limit=config.limit,
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
    return Settings(request.device, request.batch_size, task_timeout=limit)


def _resume(request: SearchRequest, search: Search) -> str:
    """The command that goes on, as it could be typed; a password is left for the reader to fill in."""
    words = ["reliquant", "search", "--resume", search.study.study_name]
    words += [] if request.storage is None else ["--storage", masked(request.storage)]
    words += [] if request.home == SearchRequest.home else ["--home", str(request.home)]
    return shlex.join(words)


def _config(request: SearchRequest, storage: BaseStorage) -> SearchConfig:
    """What is asked for, on resuming together with what the study was created with."""
    if request.resume is None:
        return filled(request.config)
    where = masked(request.storage or str(journal_path(request.home)))
    return over(request.config, kept_settings(storage, request.resume, where), request.resume)


def _prepared(
    request: SearchRequest, storage: BaseStorage, config: SearchConfig, suite: SuiteSpec, progress: Progress
) -> tuple[Search, TrialLog | None]:
    """The study, ready to run. What the user gave is checked before full precision is evaluated."""
    name = request.resume or request.name or f"{suite.name}-{config.sampler}-seed{config.seed}"
    if request.resume is None:
        check_new(storage, name)
    constraints = [parse_constraint(text) for text in config.constraints or ()]
    quiet = progress if sys.stderr.isatty() else Silent()
    settings = _settings(request)
    engine = Engine(selection_suite(suite), settings, request.home, progress, quiet)
    objectives = [make_objective(key, engine.better, engine.known) for key in config.objectives or DEFAULT]
    for constraint in constraints:
        check_constraint(constraint, engine.known)
    space = Space(_choices(config, engine), engine.check)
    check_grid(config.sampler or "", space)
    resumed = None if request.resume is None else resume_study(storage, name, space, engine.contents)
    progress.message(_rule(suite, name))
    goals = make_goals(engine.problem, objectives, constraints)
    rungs = make_rungs(engine, parse_shares(config.rungs or ()), goals.keys)
    problem = replace(engine.problem, rungs=rungs)
    for key, why in goals.left_out.items():
        progress.message(f"reliability leaves out {key}: {why}")
    for key, floor in near_floor(goals.reference, goals.keys).items():
        progress.message(
            f"{key}: {goals.reference[key]:.4f} in full precision; were the model perfectly calibrated, it would be "
            f"{floor:.4f} on so few images, so changes in it are mostly chance"
        )
    log = _log(request, suite, name, config, goals)
    lock = request.home / "studies" / ".claims.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with nullcontext() if log is None else log.ending():
        study = resumed or create_study(storage, name, config, space, objectives, engine.contents)
        search = Search(
            study, space, problem, goals, config.sampler or "", config.seed or 0, progress=progress, lock=lock
        )
        if log is not None:
            search.log = log
            log.catch_up(study)
        with exclusive(request.home / "studies" / ".prepare.lock"):
            if not study.get_trials(deepcopy=False):  # also where the process that created it was killed
                search.prepare(config.trials or TRIALS)
    return search, log


def _choices(config: SearchConfig, engine: Engine) -> Choices:
    """All methods that quantize and can run here, or those asked for."""
    everything = [name for name in quantizers.names() if name != "fp32" and quantizers.get(name).kind == "quantization"]
    methods = tuple(dict.fromkeys(config.methods or everything))
    if "fp32" in methods:
        raise SpecError("--method fp32: full precision is always evaluated; name methods that quantize")
    blocks = dict(engine.model.blocks) if config.per_block else {}
    if config.per_block and not any(blocks.values()):
        raise SpecError(f"--per-block: {engine.model.name} has no repeated blocks")
    return Choices(methods, tuple(dict.fromkeys(config.scopes or Choices(()).scopes)), blocks=blocks)


def _rule(suite: SuiteSpec, name: str) -> str:
    """Which data the study chooses on."""
    mapped = [f"{own} on {other}" for own, other in suite.validation.items()]
    split = [f"half of {', '.join(sorted(halved(suite)))}"] if halved(suite) else []
    return f"study '{name}' chooses {'; '.join([*mapped, *split])}; the front is told on the rest"


def _log(request: SearchRequest, suite: SuiteSpec, name: str, config: SearchConfig, goals: Goals) -> TrialLog | None:
    """The study's run in MLflow; opened before the study is created, which a store out of reach prevents."""
    if request.no_tracking:
        return None
    params = {key: json.dumps(value) for key, value in asdict(config).items() if value}
    (request.home / "studies").mkdir(parents=True, exist_ok=True)
    with exclusive(request.home / "studies" / ".mlflow.lock"):
        run = trackers.get(DEFAULT_TRACKER).open(request.home, request.tracking_uri).open_study(suite, name, params)
    return None if run is None else TrialLog(run, name, goals)


def _finish(request: SearchRequest, suite: SuiteSpec, search: Search, log: TrialLog | None, progress: Progress) -> int:
    """Tell the front on data that it was not chosen on; write table, figures and suite."""
    study, found = search.study, front(search.study)
    folder = request.home / "studies" / study.study_name
    volume = write_figures(folder, study, search.goals, found)
    if not found:
        print("no configuration fulfils the constraints: there is no front", file=sys.stderr)
        if log is not None:
            log.finish(folder, _summary(study, found, volume))
        return PARTIAL
    names = [trial.user_attrs["configuration"] for trial in found]
    told, warnings = _told(request, suite, names, search.goals, progress)
    write_suite(folder / "front.yaml", report_suite(suite), names, study.study_name)
    if request.json:
        for row in front_rows(found, search.goals, told):
            print(json.dumps(row), file=out())
    else:
        print_front(found, search.goals, told)
    words = sys.stderr if request.json else sys.stdout
    done, trials = len(evaluated(study)), len(study.get_trials(deepcopy=False))
    if log is not None:
        log.finish(folder, _summary(study, found, volume))
        warnings += [] if log.broken is None else [f"warning: MLflow could not be written ({log.broken})"]
    for line in warnings:
        print(line, file=sys.stderr)
    stopped = len(early(study))
    summary_line = f"{done} configurations in {trials} trials, {stopped} of them stopped early"
    print(f"{summary_line}. Figures and front: {folder}", file=words)
    print(f"Look closer: reliquant run {folder / 'front.yaml'}", file=words)
    return PARTIAL if len(told) < len(names) else 0


def _summary(study: Study, found: Sequence[FrozenTrial], volume: Metrics) -> dict[str, float]:
    """The numbers of the study's run in MLflow."""
    counts = {
        "configurations": len(evaluated(study)),
        "trials": len(study.get_trials(deepcopy=False)),
        "front": len(found),
        "stopped": len(early(study)),
    }
    return {f"study/{name}": float(value) for name, value in {**counts, **volume}.items()}


def _told(
    request: SearchRequest, suite: SuiteSpec, names: Sequence[str], goals: Goals, progress: Progress
) -> tuple[dict[str, Metrics], list[str]]:
    """Metrics of the front on the report suite, tracked as any other run, and a line for each failure."""
    told, settings = report_suite(suite), _settings(request)
    plan = make_plan(told.model_copy(update={"quantizations": tuple(names)}), settings)
    opened = [trackers.get(DEFAULT_TRACKER).open(request.home, request.tracking_uri)] if not request.no_tracking else []
    sweep = run_plan(plan, request.home, trackers=opened, progress=progress)
    engine = Engine(told, settings, request.home)
    own = make_goals(engine.problem, goals.objectives, ())
    warnings = failure_lines(sweep.failed) + [f"warning: {n}: {why}" for n, why in sweep.untracked.items()]
    failed = {record.quantization for record in sweep.failed}
    found: dict[str, Metrics] = {}
    for name in names:
        if name not in failed:
            try:
                found[name] = own.complete(engine.evaluate(parse(name)))
            except UndefinedMetric as reason:
                warnings.append(f"warning: {name} cannot be told on the report data: {reason}")
    return found, warnings
