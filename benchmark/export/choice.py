"""Which model `reliquant export` takes where `--model` does not say: the one with results, or the chosen one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmark.errors import SpecError
from benchmark.ledger.records import Ledger
from benchmark.models.identity import canonical_ref
from benchmark.results.answers import records_of
from benchmark.spec import ModelSpec, SuiteSpec
from benchmark.spec.models import unpinned


def choose_model(suite: SuiteSpec, quantization: str, home: Path) -> ModelSpec:
    """The model of the results of a quantization, else the suite's; of several the one that the user names.

    Raises:
        SpecError: there are several and nobody at a terminal to ask; it lists them.
    """
    found = evaluated(suite, quantization, home) or suite.models
    if len(found) == 1:
        return found[0]
    lines = [f"{quantization} of suite '{suite.name}' is there of {len(found)} models:"]
    lines += [f"  {number} {model.ref}" for number, model in enumerate(found, 1)]
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        names = ", ".join(model.ref for model in found)
        raise SpecError(
            f"{quantization} of suite '{suite.name}' is there of {len(found)} models: {names}. "
            f"Name one, e.g. --model {found[0].ref}."
        )
    print("\n".join(lines), file=sys.stderr)
    return _asked(found)


def evaluated(suite: SuiteSpec, quantization: str, home: Path) -> list[ModelSpec]:
    """The models of which a results folder has finished evaluations of a quantization, in the order of the results.

    Folders that `export` wrote are none of them: they are what an export is made into.
    """
    if not (home / "ledger.jsonl").is_file():
        return []
    own = {canonical_ref(model.ref) + model.ref.removeprefix(unpinned(model.ref)): model for model in suite.models}
    found: dict[str, ModelSpec] = {}
    for record in records_of(Ledger(home), suite.name, suite):
        about = record.provenance.get("model", {})
        if record.quantization == quantization and record.status == "done" and not about.get("quantized"):
            ref = str(record.identity.get("model", {}).get("ref", about.get("ref", "")))
            if ref:
                pinned = ref.removeprefix(unpinned(ref))  # two revisions are two models
                found.setdefault(
                    canonical_ref(ref) + pinned, own.get(canonical_ref(ref) + pinned) or ModelSpec(ref=ref)
                )
    return list(found.values())


def _asked(models: Sequence[ModelSpec]) -> ModelSpec:
    """The model whose number or reference is typed.

    Raises:
        SpecError: the input ends.
    """
    while True:
        print(f"Which one (1 to {len(models)})? ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            raise SpecError("no model was chosen; name one by --model")
        for number, model in enumerate(models, 1):
            if line.strip() in (str(number), model.ref):
                return model
