"""What runs are called in MLflow: params, metric keys, the note of an experiment."""

from __future__ import annotations

from benchmark.spec import QuantSpec, SuiteSpec


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


def experiment_note(suite: SuiteSpec) -> str:
    """What the reader of an experiment is told first."""
    return (
        f"{suite.description}\n\nOne run per quantization (open it for the report), with one nested run per task. "
        "Metric names are paths: task/dataset/metric; `change/...` is the change against fp32, "
        "`p/...` its p value; `comparison.csv` has every metric with interval and stars. "
        "Select runs and press Compare for parallel coordinates over `quant.weight_bits` and the metrics."
    )


def metric_name(key: str) -> str:
    """A path with what MLflow refuses in names replaced."""
    return "/".join(safe_name(part) for part in key.split("/"))


def safe_name(name: str) -> str:
    """Letters, digits, dot, underscore and hyphen; anything else becomes an underscore."""
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in name)
