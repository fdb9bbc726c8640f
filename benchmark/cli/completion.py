"""Shell completion of suites, methods, tasks and models. Imports no plugin, torch or MLflow."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from typer import Context

HOME = Path(__file__).parent.parent
FIXED = ("bnb-", "control-", "fp8", "fp32", "torchao-")
"""Methods whose name contains the precision."""

SCHEMES = ("demo", "group:paper", "hf-hub:", "local-dir:", "transformers:")


def suites(incomplete: str) -> list[str]:
    """Suites by name; the shell itself completes paths of YAML files."""
    return _beginning(incomplete, (path.stem for path in (HOME / "suites").glob("*.yaml")))


def tasks(incomplete: str) -> list[str]:
    """Installed tasks."""
    return _beginning(incomplete, _plugins("tasks"))


def trackers(incomplete: str) -> list[str]:
    """Installed trackers."""
    return _beginning(incomplete, _plugins("trackers"))


def methods(incomplete: str) -> list[str]:
    """Installed methods of quantization."""
    return _beginning(incomplete, _plugins("quantizers"))


def quantizations(incomplete: str) -> list[str]:
    """Short names: the methods, with the usual precisions of the one that is already typed."""
    found = methods(incomplete)
    for method in _plugins("quantizers"):
        if incomplete.startswith(f"{method}-") or [method] == found:
            bits = () if method.startswith(FIXED) else ("w8a8-", "w6a8-", "w4a8-", "w4-g128-")
            found = [*found, *(f"{method}-{each}vision" for each in bits or ("",))]
    return _beginning(incomplete, found)


def models(incomplete: str) -> list[str]:
    """The demo, kinds of references, open_clip's architectures, and the models of named groups."""
    import yaml

    groups = yaml.safe_load((HOME / "spec" / "groups.yaml").read_text(encoding="utf-8"))
    named = [m["ref"] if isinstance(m, dict) else m for group in groups.values() for m in group["models"]]
    package = find_spec("open_clip")
    places = package.submodule_search_locations if package else None
    folders = [Path(place) / "model_configs" for place in places or ()]
    return _beginning(incomplete, [*SCHEMES, *named, *(f"{p.stem}/" for f in folders for p in f.glob("*.json"))])


def data_names(incomplete: str) -> list[str]:
    """What `reliquant data` takes: suites, data sets and downloads; the shell itself completes paths of YAML files."""
    import yaml

    files = (HOME / "spec" / "catalogue.yaml", HOME / "download" / "files.yaml")
    named = [str(name) for path in files for name in yaml.safe_load(path.read_text(encoding="utf-8"))]
    return sorted({*suites(incomplete), *_beginning(incomplete, named)})


def runs(ctx: Context, incomplete: str) -> list[str]:
    """Short names in the results folder."""
    return _beginning(incomplete, _recorded(ctx, "quantization"))


def recorded_suites(ctx: Context, incomplete: str) -> list[str]:
    """Suites with results in the results folder."""
    return _beginning(incomplete, _recorded(ctx, "suite"))


def suites_and_runs(ctx: Context, incomplete: str) -> list[str]:
    """What `reliquant report` takes."""
    return sorted({*recorded_suites(ctx, incomplete), *runs(ctx, incomplete)})


def configurations(ctx: Context, incomplete: str) -> list[str]:
    """What `reliquant export` takes: recorded short names, otherwise possible ones."""
    return runs(ctx, incomplete) or quantizations(incomplete)


def _recorded(ctx: Context, field: str) -> set[str]:
    """The values of a field in the rows of the ledger, without reading them as JSON."""
    home = ctx.params.get("home") or os.environ.get("RELIQUANT_HOME") or "mlruns"
    value = re.compile(rb'"%s": ?"((?:[^"\\]|\\.)*)"' % field.encode())
    try:
        with (Path(home) / "ledger.jsonl").open("rb") as lines:
            found = {match[1] for line in lines if (match := value.search(line))}
    except OSError:
        return set()
    return {json.loads(b'"%s"' % text) for text in found}


def _plugins(kind: str) -> list[str]:
    return [point.name for point in entry_points(group=f"reliquant.{kind}")]


def _beginning(incomplete: str, names: Iterable[str]) -> list[str]:
    """The names with this beginning, each once, sorted."""
    return sorted({name for name in names if name.startswith(incomplete)})
