"""The Ray executor: a task is a group of configurations of one model; the driver alone writes to ledger and trackers.

A worker that dies is replaced and its task started again; its finished banks are in the cache.
"""

from __future__ import annotations

import logging
import os
import socket
import time
import uuid
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.engine.driver import Driver
from benchmark.engine.evaluate import Result, failure
from benchmark.engine.leases import write_once
from benchmark.engine.plan import Configuration, Evaluation
from benchmark.engine.request import RayOptions
from benchmark.engine.worker import Answer, Job, Order, work
from benchmark.errors import DamagedSamplesError, InputError, ReliquantError
from benchmark.spec.suite import with_quantizations
from benchmark.utils.processes import shown
from benchmark.utils.progress import Advance
from benchmark.utils.signals import catch_stops

Group = list[tuple[Configuration, list[Evaluation]]]
RETRIES = 3
"""How often a task whose worker died is started again."""
LOCAL = "local"
"""Ray's word for a cluster of this process's own; without it Ray joins any cluster that it finds on the machine."""
GROUP = 4
"""Most configurations in a task: if the driver dies, a group loses its task results, but not its banks."""
PAUSE = 0.5
NEWS_SECONDS = 10.0


@dataclass
class OnRay:
    """Evaluates a plan on a cluster."""

    driver: Driver
    options: RayOptions
    home: Path
    pixel_budget: int
    skip_broken: bool
    _running: dict[Any, Group] = field(default_factory=dict)
    _arrived: list[tuple[Configuration, list[Evaluation], Answer]] = field(default_factory=list)
    _alone: set[str] = field(default_factory=set)
    _refusal: ReliquantError | None = None
    _checked: bool = False
    _told: tuple[str, float] = ("", 0.0)

    def run(self, advance: Advance) -> None:
        """Evaluate until every configuration is settled.

        Raises:
            InputError: Ray is not installed, there is no cluster at the address, or a worker refused its inputs.
            StorageError: the results folder, or a worker's cache, cannot be written.
        """
        ray = connect(self.options)
        try:
            self._mark = self._leave_mark()
            task = ray.remote(**requests(self.options))(work)
            waiting = deque(self.driver.plan.configurations)
            while waiting or self._running or self._arrived:
                self._submit(ray, task, waiting)
                self._receive(ray, waiting)
                self._settle(waiting, advance)
                if self._refusal is not None:
                    raise self._refusal
                self._tell(ray, len(waiting))
        finally:
            ray.shutdown()

    def _submit(self, ray: Any, task: Any, waiting: deque[Configuration]) -> None:
        """Lease and submit configurations, in the plan's order, until the cluster is busy."""
        slots = self._at_once(ray)
        room, left = 2 * slots - len(self._running), len(waiting)
        while room > 0 and left > 0:
            group: Group = []
            size = self._group_size(waiting[0], slots)
            while left > 0 and len(group) < size and (not group or self._together(group[0][0], waiting[0])):
                left -= 1
                group += self._leased(waiting)
            if group:
                self._running[task.remote(self._order(group))] = group
                room -= 1

    def _group_size(self, first: Configuration, slots: int) -> int:
        """Size of a group, at most `GROUP`, such that each slot of the cluster loads a model once."""
        if first.key in self._alone:
            return 1
        return min(GROUP, -(-sum(c.model is first.model for c in self.driver.plan.configurations) // slots))

    def _together(self, first: Configuration, other: Configuration) -> bool:
        return first.model is other.model and other.key not in self._alone

    def _leased(self, waiting: deque[Configuration]) -> Group:
        """The next configuration with its pending evaluations, if its lease is ours; otherwise it goes to the end."""
        configuration = waiting.popleft()
        holder = self.driver.leases.take(configuration.quantized_key)
        if holder is not None:
            waiting.append(configuration)
            self._news(f"{configuration.model.name}, {configuration.quant.name}: {shown(holder)} evaluates it")
            return []
        self.driver.ledger.refresh()
        pending = self.driver.pending(configuration)
        if pending:
            return [(configuration, pending)]
        self._arrived.append((configuration, [], Answer()))
        return []

    def _order(self, group: Group) -> Order:
        plan = self.driver.plan
        names = tuple(configuration.quant.name for configuration, _ in group)
        check, self._checked = not self._checked, True
        return Order(
            suite=with_quantizations(plan.suite, names).model_copy(update={"models": (group[0][0].model.spec,)}),
            settings=plan.settings,
            jobs=tuple(
                Job(c.key, tuple(e.key for e in pending), c.quantized_key not in self.driver.ledger.reports)
                for c, pending in group
            ),
            home=self.home.resolve(),
            home_mark=self._mark,
            check_inputs=check,
            pixel_budget=self.pixel_budget,
            skip_broken=self.skip_broken,
            threads=max(1, int(self.options.cpus)),
            include=tuple(path.resolve() for path in self.options.include),
            folder=Path.cwd(),
            environment={name: value for name, value in os.environ.items() if name.startswith("RELIQUANT_")},
        )

    def _receive(self, ray: Any, waiting: deque[Configuration]) -> None:
        if not self._running:
            time.sleep(PAUSE if not self._arrived else 0)
            return
        ready, _ = ray.wait(list(self._running), num_returns=1, timeout=PAUSE)
        for reference in ready:
            group = self._running.pop(reference)
            try:
                answers = ray.get(reference)
            except ray.exceptions.RayTaskError as error:  # raised by our own code in the worker: a retry would not help
                self._failed(group, failure(_cause(error), {}), waiting)
            except ray.exceptions.RayError as error:  # its worker died again and again, or could not be started
                reason = f"its worker was lost: {str(error).strip().splitlines()[0]}"
                self._failed(group, Result(error=reason), waiting)
            else:
                for (configuration, pending), answer in zip(group, answers, strict=False):  # a refusal is the last
                    self._take(configuration, pending, answer)

    def _failed(self, group: Group, result: Result, waiting: deque[Configuration]) -> None:
        """Record a failure; a failed group is split, and its members are tried one by one to find the cause."""
        if len(group) == 1:
            [(configuration, pending)] = group
            self._arrived.append((configuration, pending, Answer({e.key: result for e in pending})))
            return
        for configuration, _ in reversed(group):
            self._alone.add(configuration.key)
            self.driver.leases.release(configuration.quantized_key)
            waiting.appendleft(configuration)

    def _take(self, configuration: Configuration, pending: list[Evaluation], answer: Answer) -> None:
        if answer.refused is not None:
            self._refusal = answer.refused
            return
        for damage in answer.damaged:
            self.driver.progress.message(f"damaged cache entry found and recomputed: {damage}")
        self.driver.sweep.forward_images += answer.forward_images
        self._arrived.append((configuration, pending, answer))

    def _settle(self, waiting: deque[Configuration], advance: Advance) -> None:
        """Record the results that arrived and whose full precision is settled."""
        arrived, self._arrived = self._arrived, []
        if arrived:
            self.driver.ledger.refresh()
        for configuration, pending, answer in arrived:
            full = self.driver.reference(configuration)
            if full is not None and self.driver.pending(full):
                self._arrived.append((configuration, pending, answer))
                continue
            try:
                self.driver.report(configuration, answer.report)
                for evaluation in pending:
                    self.driver.write(configuration, evaluation, answer.results[evaluation.key])
                self.driver.finish(configuration)
                advance(1)
            except DamagedSamplesError as damage:
                self.driver.progress.message(str(damage))
                again = [c for c in (full, configuration) if c is not None and c not in waiting]
                waiting.extendleft(reversed(again))
            self.driver.leases.release(configuration.quantized_key)

    def _leave_mark(self) -> str:
        """Write a mark by which a worker recognises that it shares the results folder."""
        place = self.driver.leases.folder / "mark"
        place.parent.mkdir(parents=True, exist_ok=True)
        write_once(place, uuid.uuid4().hex)
        return place.read_text(encoding="utf-8")

    def _at_once(self, ray: Any) -> int:
        """Number of tasks that fit on the cluster at the same time; at least one, which may wait for a node."""
        there = ray.cluster_resources()
        fits = [there.get("CPU", 0) / self.options.cpus] if self.options.cpus else []
        fits += [there.get("GPU", 0) / self.options.gpus] if self.options.gpus else []
        return max(1, int(min(fits, default=1)))

    def _tell(self, ray: Any, waiting: int) -> None:
        total, free = ray.cluster_resources().get("CPU", 0), ray.available_resources().get("CPU", 0)
        nodes = sum(node["Alive"] for node in ray.nodes())
        queued = max(0, len(self._running) - self._at_once(ray))
        self._news(
            f"cluster: {nodes} nodes, {total - free:g} of {total:g} CPUs busy; "
            f"{len(self._running) - queued} configurations running, {waiting + queued} waiting"
        )

    def _news(self, text: str) -> None:
        """Show a line if it differs from the last one, and not too often."""
        if text != self._told[0] and time.monotonic() - self._told[1] > NEWS_SECONDS:
            self._told = text, time.monotonic()
            self.driver.progress.message(text)


def requests(options: RayOptions) -> dict[str, Any]:
    """The resources that a task requests from Ray.

    A worker that has used a GPU ends with its task: this frees its memory, and the next task may get another GPU, which
    a process that has initialised CUDA would not see.
    """
    return {
        "num_cpus": options.cpus,
        "num_gpus": options.gpus,
        "max_calls": 1 if options.gpus else 0,
        "max_retries": RETRIES,
        "name": "reliquant",
    }


def _cause(error: Any) -> Exception:
    """The exception that a task raised, taken out of Ray's."""
    return error.cause if isinstance(error.cause, Exception) else RuntimeError(str(error))


def connect(options: RayOptions) -> Any:
    """The module `ray`, connected to a cluster, or to one started on this machine. No usage statistics are sent.

    Raises:
        InputError: it is not installed, or cannot connect.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise InputError("--engine ray: Ray is not installed; pip install 'reliquant[ray]'") from None
    address = options.address or os.environ.get("RAY_ADDRESS") or LOCAL
    own: dict[str, Any] = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"} if address == LOCAL else {}
    try:
        _knock(address)
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **own)
    except Exception as error:  # Ray's own, gRPC's, and plain ones
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"--address {address}: cannot connect to Ray ({reason})") from error
    catch_stops()  # Ray has put its own handler in its place
    return ray


def _knock(address: str) -> None:
    """Check that a server listens at `[ray://]HOST:PORT`: Ray itself would retry for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        with socket.create_connection((host.strip("[]"), int(port)), timeout=10):
            pass
