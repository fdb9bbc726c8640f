"""`reliquant search`: prepare a study, run it, and report its Pareto front on the test split."""

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
from benchmark.results.decide import Decision, by_configuration
from benchmark.results.reliability import near_floor
from benchmark.results.tables import headline_keys
from benchmark.spec import ArtifactQuant, SuiteSpec
from benchmark.spec.suite import load_suite, narrow, with_quantizations
from benchmark.tracking import DEFAULT_TRACKER, trackers
from benchmark.utils.locking import exclusive
from benchmark.utils.output import out
from benchmark.utils.progress import Progress, Silent, open_progress
from benchmark.utils.signals import Terminated

from .evaluator import Engine
from .history import evaluated, front, pruned
from .objective import (
    DEFAULT,
    EFFECTIVE_BITS,
    Goals,
    Metrics,
    check_constraint,
    make_goals,
    make_objective,
    parse_constraint,
)
from .report import front_rows, print_front, print_verdicts, write_figures, write_suite
from .request import SearchConfig, SearchRequest
from .rungs import make_rungs, parse_shares
from .settings import (
    TRIALS,
    check_new,
    create_study,
    merged,
    resume_study,
    stored_settings,
    with_defaults,
)
from .space import Choices, Space
from .splits import halved, suite_on_test, suite_on_validation
from .storage import journal_path, open_storage
from .study import Search, check_grid
from .tracking import TrialLog


def run_search(request: SearchRequest) -> int:
    """Search and report.

    Returns:
        the exit status: 0; 3 when no configuration is feasible or one failed on the test split; 130 when interrupted.
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
    settings = _settings(request)
    engine = Engine(suite_on_validation(suite), settings, request.home, progress, quiet)
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
        progress.message(f"reliability: {key} is left out: {why}")
    for key, floor in near_floor(goals.reference, goals.keys).items():
        progress.message(
            f"{key}: {goals.reference[key]:.4f} in full precision; a perfectly calibrated model would have {floor:.4f} "
            "on so few images, so its changes are mostly chance"
        )
    log = _log(request, suite, name, config, goals)
    lock = request.home / "studies" / ".leases.lock"
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
            if not study.get_trials(
                deepcopy=False
            ):  # also if the process that created it was killed before it queued anything
                search.prepare(config.trials or TRIALS)
    return search, log


def _choices(config: SearchConfig, engine: Engine) -> Choices:
    """The methods, scopes and blocks to search over: those of the command line, by default every installed method."""
    everything = [name for name in quantizers.names() if name != "fp32" and quantizers.get(name).kind == "quantization"]
    methods = tuple(dict.fromkeys(config.methods or everything))
    if "fp32" in methods:
        raise SpecError("--method fp32: the search always evaluates full precision. Name methods that quantize.")
    blocks = dict(engine.model.blocks) if config.per_block else {}
    if config.per_block and not any(blocks.values()):
        raise SpecError(f"--per-block: {engine.model.name} has no repeated blocks. Leave it out.")
    return Choices(methods, tuple(dict.fromkeys(config.scopes or Choices(()).scopes)), blocks=blocks)


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
    """Evaluate the front on the test split; write table, figures and suite."""
    study, found = search.study, front(search.study)
    folder = request.home / "studies" / study.study_name
    volume = write_figures(folder, study, search.goals, found)
    if not found:
        print("no configuration satisfies the constraints, so there is no front", file=sys.stderr)
        if log is not None:
            log.finish(folder, _summary(study, found, volume))
        return PARTIAL
    names = [trial.user_attrs["configuration"] for trial in found]
    fixed = tuple(suite.artifacts)
    test, decisions, warnings = _on_test(request, suite, names, search.goals, progress)
    write_suite(folder / "front.yaml", suite_on_test(suite), names, study.study_name)
    if request.json:
        for row in front_rows(found, search.goals, test, decisions, fixed):
            print(json.dumps(row), file=out())
    else:
        print_front(found, search.goals, test, fixed)
        print_verdicts(decisions, {name: m[EFFECTIVE_BITS] for name, m in test.items() if EFFECTIVE_BITS in m})
    words = sys.stderr if request.json else sys.stdout
    done, trials = len(evaluated(study)), len(study.get_trials(deepcopy=False))
    if log is not None:
        log.finish(folder, _summary(study, found, volume))
        warnings += [] if log.broken is None else [f"warning: MLflow could not be written ({log.broken})"]
    for line in warnings:
        print(line, file=sys.stderr)
    summary_line = f"{done} configurations in {trials} trials, {len(pruned(study))} of them pruned"
    print(f"{summary_line}. Figures and front: {folder}", file=words)
    print(f"Look closer: reliquant run {shlex.quote(str(folder / 'front.yaml'))}", file=words)
    return PARTIAL if len(test) < len(names) + len(fixed) else 0


def _summary(study: Study, found: Sequence[FrozenTrial], volume: Metrics) -> dict[str, float]:
    """The numbers of the study's run in MLflow."""
    counts = {
        "configurations": len(evaluated(study)),
        "trials": len(study.get_trials(deepcopy=False)),
        "front": len(found),
        "pruned": len(pruned(study)),
    }
    return {f"study/{name}": float(value) for name, value in {**counts, **volume}.items()}


def _on_test(
    request: SearchRequest, suite: SuiteSpec, names: Sequence[str], goals: Goals, progress: Progress
) -> tuple[dict[str, Metrics], dict[str, Decision], list[str]]:
    """Metrics of the front and of the suite's artifacts on the test split, tracked as any other run, verdicts, and a
    line for each failure.
    """
    test, settings = suite_on_test(suite), _settings(request)
    plan = make_plan(with_quantizations(test, names), settings)
    opened = [trackers.get(DEFAULT_TRACKER).open(request.home, request.tracking_uri)] if not request.no_tracking else []
    sweep = run_plan(plan, request.home, trackers=opened, progress=progress)
    engine = Engine(test, settings, request.home)
    own = make_goals(engine.problem, goals.objectives, ())
    warnings = failure_lines(sweep.failed) + [f"warning: {n}: {why}" for n, why in sweep.untracked.items()]
    failed = {record.quantization for record in sweep.failed}
    found: dict[str, Metrics] = {}
    quants = {name: parse(name) for name in names}
    quants |= {name: ArtifactQuant(label=name, method="artifact") for name in test.artifacts}
    for name, quant in quants.items():
        if name not in failed:
            try:
                found[name] = own.complete(engine.evaluate(quant))
            except UndefinedMetric as reason:
                warnings.append(f"warning: {name} has no value on the test split: {reason}")
    by_key = by_configuration(headline_keys(plan, sweep.records), sweep.changes, suite.margins)
    decisions = {c.quant.name: by_key[c.key] for c in plan.configurations if c.key in by_key}
    return found, decisions, warnings
