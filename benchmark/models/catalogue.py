"""What `reliquant list models` shows: open_clip's pretrained models, the demo, and named groups of models."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from benchmark.models import hub
from benchmark.models.families import family_of
from benchmark.models.identity import read_json
from benchmark.models.pretrained import architectures, tags
from benchmark.models.references import demo_folder, is_cached, resolve
from benchmark.spec.groups import groups
from benchmark.spec.models import known_model, unpinned
from benchmark.spec.yaml_file import load_yaml

PARAMETERS = Path(__file__).parent / "parameters.yaml"


@dataclass(frozen=True)
class ModelInfo:
    """One model that can be asked for.

    Attributes:
        ref: what `--model` takes.
        parameters: number of weights, None where the architecture does not tell (a text tower from the hub).
        cached: whether the weights are on this machine, looked up without a network.
        group: the named groups that hold it, separated by commas.
        architecture, pretraining, top1: what `benchmark.spec.models` knows of it.
    """

    ref: str
    family: str
    parameters: int | None
    cached: bool
    group: str | None = None
    architecture: str | None = None
    pretraining: str | None = None
    top1: float | None = None


def list_models() -> list[ModelInfo]:
    """The demo, every pretrained model of open_clip, and the other members of groups; no network is used.

    Raises:
        ModelError: open_clip is not installed.
    """
    members: dict[str, str] = {}
    for group, specs in groups().items():
        for spec in specs:
            members[spec.ref] = f"{members[spec.ref]}, {group}" if spec.ref in members else group
    found = [*_demo(), *_open_clip()]
    listed = {info.ref for info in found}
    found += [_other(ref) for ref in members if ref not in listed]
    return [_described(replace(info, group=members.get(info.ref))) for info in found]


def _described(info: ModelInfo) -> ModelInfo:
    known = known_model(info.ref)
    if known is None:
        return info
    return replace(info, architecture=known.architecture, pretraining=known.pretraining, top1=known.top1)


def _demo() -> list[ModelInfo]:
    if not demo_folder().is_dir():
        return []
    demo = resolve("demo")
    return [ModelInfo("demo", demo.family, demo.parameters, cached=True)]


def _open_clip() -> list[ModelInfo]:
    known = architectures()
    sizes = load_yaml(PARAMETERS)
    infos = []
    for name, tag in tags().list_pretrained():
        family = family_of(read_json(known[name]))
        cached = is_cached(tags().get_pretrained_cfg(name, tag))
        infos.append(ModelInfo(f"{name}/{tag}", family, sizes.get(name), cached))
    return infos


def published_parameters(ref: str) -> int | None:
    """The number of weights of a model as its makers say, by its reference; None where it is not known.

    Looked up in `parameters.yaml` alone: nothing is imported or fetched.
    """
    sizes, ref = load_yaml(PARAMETERS), unpinned(ref)
    entry = sizes.get(ref, sizes.get(ref.partition("/")[0]))
    found = entry.get("parameters") if isinstance(entry, dict) else entry
    return None if found is None else int(found)


def _other(ref: str) -> ModelInfo:
    """A member of a group that open_clip does not list: `transformers:` or `hf-hub:`."""
    scheme, _, repository = ref.partition(":")
    weights = ["model.safetensors", "open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
    entry = load_yaml(PARAMETERS).get(unpinned(ref), {})
    cached = hub.cached(repository, weights) is not None
    return ModelInfo(ref, entry.get("family", scheme), entry.get("parameters"), cached)
