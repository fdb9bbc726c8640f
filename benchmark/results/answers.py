"""Which records answer a suite: found by what was asked, whoever computed them first, and never mixed.

A record answers a suite if its identity is one of the suite's (`benchmark.results.identity`), under whatever suite or
model name it was computed. What was run under the suite's name beyond its file (`--quant`, `--model`, `--limit`)
belongs to it too, where nothing else answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from benchmark.errors import ReliquantError, UnknownNameError
from benchmark.ledger.records import Ledger, Record
from benchmark.models.identity import canonical_ref, display_name
from benchmark.results.identity import identities, question, same
from benchmark.spec import FP32, ModelSpec, SuiteSpec

Facts = dict[str, str]
"""What a record rests on -> its value, as it stands behind the model's name where two values meet."""


def records_of(ledger: Ledger, suite: str, spec: SuiteSpec | None) -> list[Record]:
    """The records that answer a suite, in the ledger's order, as if this suite had computed them.

    Where finished records of one identity rest on different weights, images or settings, all are there, told apart by
    the model's name: `demo (weights 1a2b3c4d)`. Failed records come along.

    Args:
        spec: the suite's file, where it was found; without it the suite's name decides.
    """
    answers = _of_newest_files(ledger.answers())
    own = [record for record in answers if record.suite == suite]
    matched = [] if spec is None else _matching(answers, suite, spec, own)
    answered = {_place(record) for record in matched if record.status == "done"}
    rest = [record for record in own if _place(record) not in answered]
    kept = {(r.key, r.model): r for r in [*matched, *_last_asked(rest)]}
    wanted = {(r.name, r.comparison_key) for r in kept.values() if r.quantization != FP32.name}
    for record in own:
        if record.quantization == FP32.name and (record.name, record.comparison_key) in wanted:
            kept.setdefault((record.key, record.model), record)
    order = {record.key: place for place, record in enumerate(answers)}
    return side_by_side(sorted(kept.values(), key=lambda record: order[record.key]))


def _of_newest_files(records: Sequence[Record]) -> list[Record]:
    """Without those of an artifact whose file has been replaced since: two files never make one configuration."""
    last = {_where(record): record.provenance["artifact"] for record in records if "artifact" in record.provenance}
    return [r for r in records if _where(r) not in last or r.provenance.get("artifact") == last[_where(r)]]


def _where(record: Record) -> tuple[str, str, str]:
    return record.suite, record.model, record.quantization


def _place(record: Record) -> tuple[str, str, str]:
    return record.model, record.quantization, record.name


def _matching(answers: Iterable[Record], suite: str, spec: SuiteSpec, own: Iterable[Record]) -> list[Record]:
    """Records with an identity of the suite's, under its names of models."""
    names = {str(record.identity["model"]["ref"]): record.model for record in own if "model" in record.identity}
    wanted: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    try:
        for model in spec.models:
            name = model.name or _unnamed(model, spec, names)
            for one in identities(spec.model_copy(update={"models": (model,)})):
                wanted.setdefault(question(one), []).append((name, one))
    except ReliquantError:  # a task or method that is not installed here: the suite's name must do
        return []
    return [
        replace(record, suite=suite, model=name)
        for record in answers
        if "model" in record.identity
        for name, one in wanted.get(question(record.identity), ())
        if same(record.identity, one)
    ]


def _unnamed(model: ModelSpec, spec: SuiteSpec, known: Mapping[str, str]) -> str:
    """The name of a model that the suite gives none: as recorded, since it may depend on the machine's files."""
    given = {each.name for each in spec.models}
    recorded = known.get(model.ref)
    return recorded if recorded is not None and recorded not in given else display_name(model.ref)


def _last_asked(records: Sequence[Record]) -> list[Record]:
    """Of each evaluation the records of the identity that was asked for last; failed ones come along."""
    last = {_place(record): question(record.identity) for record in records if record.status == "done"}
    return [r for r in records if r.status != "done" or question(r.identity) == last[_place(r)]]


def side_by_side(records: Sequence[Record]) -> list[Record]:
    """Records of a model that rest on different things, under names of their own; what rests on neither is in each."""
    found: list[Record] = []
    for model in dict.fromkeys(record.model for record in records):
        own = [record for record in records if record.model == model]
        facts = [_facts(record) for record in own]
        differing = [fact for fact in dict.fromkeys(k for each in facts for k in each) if len(_values(facts, fact)) > 1]
        parts = [{fact: each[fact] for fact in differing if fact in each} for each in facts]
        for version in _largest(parts):
            label = ", ".join(filter(None, version.values()))
            name = f"{model} ({label})" if label else model
            pairs = zip(own, parts, strict=True)
            found += [replace(record, model=name) for record, part in pairs if part.items() <= version.items()]
    return found


def _values(facts: Sequence[Facts], fact: str) -> set[str]:
    return {each[fact] for each in facts if fact in each}


def _largest(parts: Iterable[Facts]) -> list[Facts]:
    """The different ones that are not a part of another."""
    distinct = list({tuple(sorted(part.items())): part for part in parts}.values())
    return [part for part in distinct if not any(part.items() < other.items() for other in distinct)]


def _facts(record: Record) -> Facts:
    """What a record rests on besides its identity, and its limit; empty where the record does not say."""
    one, about = record.identity, record.provenance
    if record.status != "done" or not {"model", "data", "limit"} <= one.keys():
        return {}
    names = {name for pairs in one["data"].values() for name, _ in pairs}
    data = {name: about.get("data", {}).get(name) for name in sorted(names)}
    limit = one["limit"]  # part of the digests of images, so these are compared where it is equal
    found = {f"data {name} {limit}": f"{name} {digest[:8]}" for name, digest in data.items() if digest}
    if one["model"]["digest"]:
        found["weights"] = f"weights {one['model']['digest'][:8]}"
    found["limit"] = "" if limit is None else f"limit {limit}"
    if known := about.get("settings"):
        flags = [name.replace("_", " ") for name in ("exact_float", "compile") if known[name]]
        how = [str(known["device"]).split(":")[0], str(known["precision"]), str(known["integer_engine"]), *flags]
        found["settings"] = " ".join(how)
    return found


def of_model(record: Record, model: str) -> bool:
    """Whether a record is one of a model, side by side with others or not."""
    return record.model == model or record.model.startswith(f"{model} (")


def records_of_model(records: Sequence[Record], asked: str) -> list[Record]:
    """The records of a model, by its name in tables or by any reference that `run` takes for the same model.

    A reference that cannot be compared as text is looked up on this machine: the digest of its weights decides.
    """
    named = [record for record in records if of_model(record, asked)]
    if named:
        return named
    ref = canonical_ref(asked)
    found = [r for r in records if "model" in r.identity and canonical_ref(str(r.identity["model"]["ref"])) == ref]
    if found:
        return found
    from benchmark.models import resolve  # late: most commands need no model

    try:
        digest = resolve(asked, download=False).digest
    except ReliquantError:
        return []
    return [r for r in records if "model" in r.identity and r.identity["model"]["digest"] == digest]


def require_model(records: Sequence[Record], asked: str, suite: str) -> list[Record]:
    """`records_of_model`, at least one.

    Raises:
        UnknownNameError: there is none; names those that there are.
    """
    if found := records_of_model(records, asked):
        return found
    raise UnknownNameError(f"model in the results of '{suite}'", asked, {record.model for record in records})


def of_model_name(model: str) -> str:
    """The name of a model that stands side by side with others of that name: `demo` of `demo (weights 1a2b3c4d)`."""
    return model.partition(" (")[0]


def mixed_versions(records: Iterable[Record]) -> str | None:
    """One line where records were computed with different versions of a library, or of Python; None where not."""
    found: dict[str, dict[str, None]] = {}
    for record in records:
        for name, version in record.provenance.get("versions", {}).items():
            found.setdefault(name, {})[version] = None
    mixed = [f"{name} {' and '.join(sorted(versions))}" for name, versions in found.items() if len(versions) > 1]
    if not mixed:
        return None
    return f"these results were computed with different versions of {', '.join(mixed)}; that alone may change numbers"
