"""The local executor: evaluates one configuration after the other, and shares the work with other processes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from benchmark.engine.banks import BankMaker, Caches
from benchmark.engine.driver import Driver
from benchmark.engine.evaluate import embed, evaluate, failure, out_of_memory
from benchmark.engine.holding import Models
from benchmark.engine.plan import Configuration, Evaluation
from benchmark.engine.provenance import provenance
from benchmark.engine.request import Timing
from benchmark.engine.timing import time_configuration
from benchmark.errors import DamagedSamplesError, InputError, NonFiniteError, QuantizationError, StorageError
from benchmark.spec import FP32
from benchmark.utils.guard import guarded
from benchmark.utils.processes import shown
from benchmark.utils.progress import Advance

PAUSE = 0.5
"""Seconds between looks at the leases of other processes."""


@dataclass
class Local:
    """Evaluates a plan in this process.

    A configuration that another process has leased is left for later; while full precision is being evaluated
    elsewhere, quantized models are embedded, and their tasks wait for it.
    """

    driver: Driver
    caches: Caches
    timing: Timing = "never"
    models: Models = field(default_factory=Models)
    _checked: bool = False
    _said: set[str] = field(default_factory=set)

    def run(self, advance: Advance) -> None:
        """Evaluate until every configuration is settled, by this process or another.

        Raises:
            InputError: the first model cannot be loaded, or an image cannot be decoded.
            StorageError: the results folder cannot be written.
        """
        waiting: Sequence[Configuration] = self.driver.plan.configurations
        while waiting:
            held: dict[str, str] = {}
            for configuration in waiting:
                with self.driver.leases.lease(configuration.quantized_key) as holder:
                    if holder is not None:
                        held[configuration.key] = holder
                        continue
                    self._complete(configuration)
                advance(1)
            if len(held) == len(waiting):
                self._wait(waiting[0], held[waiting[0].key])
            waiting = [c for c in waiting if c.key in held]

    def _complete(self, configuration: Configuration) -> None:
        while True:
            self.driver.ledger.refresh()
            maker = self._maker(configuration)
            if pending := self.driver.pending(configuration):
                self._evaluate(maker, pending)
            else:
                self._settle_reference(configuration)
            time_configuration(maker, self.driver.ledger, self.timing)
            try:
                return self.driver.finish(configuration)
            except DamagedSamplesError as damage:
                self.driver.progress.message(str(damage))

    def _evaluate(self, maker: BankMaker, pending: Sequence[Evaluation]) -> None:
        """Evaluate and record; a failure before the tasks (quantizing, embedding) fails every pending evaluation."""
        driver, settings, configuration = self.driver, self.driver.plan.settings, maker.configuration
        self._check_first(maker)
        about = provenance(driver.plan, configuration)
        try:
            known = configuration.quantized_key in driver.ledger.reports
            driver.report(configuration, embed(maker, pending, with_report=not known))
        except StorageError:
            raise
        except Exception as error:  # the rest of the sweep goes on; the reason is recorded
            for evaluation in pending:
                driver.write(configuration, evaluation, failure(error, about, settings.batch_size))
        else:
            self._settle_reference(configuration)
            with driver.progress.phase(f"evaluate {configuration.quant.name}", len(pending)) as advance:
                for evaluation in pending:
                    driver.write(configuration, evaluation, evaluate(maker, evaluation, about))
                    advance(1)
        finally:
            driver.sweep.forward_images += maker.images_run

    def _settle_reference(self, configuration: Configuration) -> None:
        """Wait until full precision of the same model, the reference of comparisons, is settled and readable.

        Evaluating full precision waits for no other lease, so waiting here while holding one cannot deadlock.
        """
        driver, full = self.driver, self.driver.reference(configuration)
        while configuration.quant != FP32:
            driver.ledger.refresh()
            if full is not None and driver.pending(full):
                with driver.leases.lease(full.quantized_key) as holder:
                    if holder is None:
                        driver.ledger.refresh()
                        if pending := driver.pending(full):
                            self._evaluate(self._maker(full), pending)
                if holder is not None:
                    self._wait(full, holder)
                continue
            try:
                driver.references(configuration)
                return
            except DamagedSamplesError as damage:
                driver.progress.message(str(damage))

    def _maker(self, configuration: Configuration) -> BankMaker:
        plan = self.driver.plan
        holder = self.models.holder(configuration.model, plan.settings.device)
        return self.caches.maker(plan, configuration, holder, self.driver.progress)

    def _check_first(self, maker: BankMaker) -> None:
        """Report errors in images or the model before any long work."""
        if self._checked:
            return
        names = {name for e in maker.configuration.evaluations for r in e.roles.values() for name in r}
        try:
            self._checked = guarded("checking the inputs", lambda: maker.check_inputs(names))
        except (InputError, QuantizationError, NonFiniteError, StorageError) as error:
            if not out_of_memory(error):
                raise
            self._checked = True
        except Exception:  # its evaluations raise it again and record the reason
            self._checked = True

    def _wait(self, configuration: Configuration, holder: str) -> None:
        if holder not in self._said:
            self._said.add(holder)
            name = f"{configuration.model.name}, {configuration.quant.name}"
            self.driver.progress.message(f"waiting for {shown(holder)}, which evaluates {name}")
        with suppress(InterruptedError):
            time.sleep(PAUSE)
