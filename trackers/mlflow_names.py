"""What runs are called in MLflow: params, tags to group by, metric keys."""

from __future__ import annotations

from collections.abc import Iterable

from benchmark.ledger.records import Record
from benchmark.results.decide import decision_of, declared_by, told
from benchmark.results.images import data_sets
from benchmark.results.reliability import reliability
from benchmark.results.tables import headline_keys
from benchmark.spec import QuantSpec
from benchmark.tracking import FinishedConfiguration


def quant_params(quant: QuantSpec) -> dict[str, object]:
    """The quantization's fields, numbers as bare numbers, so that MLflow can plot and filter them."""
    fields = quant.model_dump(mode="json", exclude={"options", "overrides", "skip"})
    params = {f"quant.{key}": value for key, value in fields.items() if value is not None}
    params |= {f"quant.{key}": value for key, value in quant.options}
    if quant.skip:
        params["quant.skip"] = " ".join(quant.skip)
    if quant.overrides:
        params["quant.overrides"] = " ".join(f"{o.pattern}={o.bits}" for o in quant.overrides)
    return params


def grouping(finished: FinishedConfiguration) -> dict[str, str]:
    """Tags of a configuration and of its tasks, by which MLflow's table can be grouped."""
    quant, model = finished.configuration.quant, finished.configuration.model
    scope = quant.scope if quant.method != "fp32" else "none"
    return {"model": model, "suite": finished.suite.name, "method": quant.method, "scope": scope}


def verdict_tags(finished: FinishedConfiguration) -> dict[str, str]:
    """`verdict` (non-inferior, inferior, cannot tell) and `verdict.why`; nothing for full precision."""
    decision = decision_of(finished)
    return {} if decision is None else {"verdict": decision.verdict, "verdict.why": told(decision)[:5000]}


def reliability_metric(finished: FinishedConfiguration) -> dict[str, float]:
    """`reliability`, the points of `benchmark.results.reliability`; nothing where a headline metric is missing."""
    values = {change.key: change.value for change in finished.changes}
    before = {change.key: change.reference for change in finished.changes}
    headline = headline_keys(finished, finished.records)
    found = reliability(values, before, headline, declared_by(finished)).value
    return {} if found is None else {"reliability": found}


def data_tags(records: Iterable[Record]) -> dict[str, str]:
    """`data.NAME`: images and classes of each data set."""
    return {f"data.{safe_name(name)}": text[:5000] for name, text in data_sets(records).items()}


def commit_tags(records: Iterable[Record]) -> dict[str, str]:
    """`model.commit` and `data.commit`: the commits of the hub that models and data come from, where there are any."""
    about = [record.provenance for record in records]
    models = {f"{n}@{c}": None for each in about for n, c in each.get("model", {}).get("commits", {}).items()}
    data = {f"{name} {origin}": None for each in about for name, origin in each.get("origins", {}).items()}
    return {name: ", ".join(found)[:5000] for name, found in (("model.commit", models), ("data.commit", data)) if found}


def metric_name(key: str) -> str:
    """A path with what MLflow refuses in names replaced."""
    return "/".join(safe_name(part) for part in key.split("/"))


def safe_name(name: str) -> str:
    """Letters, digits, dot, underscore and hyphen; anything else becomes an underscore."""
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in name)
