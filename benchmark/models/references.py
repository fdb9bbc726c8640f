"""A model reference -> files, digest and loader, without building the model or, mostly, importing torch.

`demo`, `local-dir:PATH`, `hf-hub:ORG/NAME[@REVISION]`, `NAME/PRETRAINED`, `NAME/FILE`, `transformers:PATH_OR_ID`, or
the path of a weight file that lies beside its `open_clip_config.json`, or of a folder that `reliquant export` wrote.
"""

from __future__ import annotations

import importlib.util
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from benchmark.errors import ModelError, ReliquantError, SpecError, UnknownNameError
from benchmark.models import hub
from benchmark.models.checkpoint import TORCH_SUFFIXES, count_parameters, find_weights
from benchmark.models.families import family_of
from benchmark.models.identity import TOKENIZER_FILES, display_name, model_digest, read_json, tokenizer_files
from benchmark.models.preprocess import Preprocess, from_open_clip
from benchmark.models.pretrained import architectures, tags
from benchmark.models.untrusted import check_config, check_open_clip, check_transformers
from benchmark.registry import Registry
from benchmark.spec import ModelSpec, QuantSpec

if TYPE_CHECKING:
    from benchmark.models.base import ClipModel
    from benchmark.quantization import QuantizationReport
    from benchmark.utils.hub import Snapshot

CONFIG_NAME = "open_clip_config.json"
WEIGHTS_NAMES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
EXPORT_NAME = "reliquant.json"
"""The file that identifies a folder written by `reliquant export`."""


@dataclass(frozen=True)
class Recipe:
    """The parts that a model is built from, besides its weights.

    Attributes:
        library: that holds its classes. architecture: its configuration there.
        tokenizer: folder of a transformers tokenizer; None for open_clip's own.
        text_model: folder with the `config.json` of a transformers text tower; None for a library's own.
    """

    library: Literal["open_clip", "transformers", "planted"]
    architecture: Mapping[str, Any]
    tokenizer: Path | None = None
    text_model: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """The files behind it."""
        tokenizer = tokenizer_files(self.tokenizer) if self.tokenizer else ()
        return (*tokenizer, *([self.text_model / "config.json"] if self.text_model else []))

    def checked(self, where: str) -> Recipe:
        """The recipe itself, after a check that its configurations cannot run code.

        Raises:
            ModelError: names `where` or the file, and the key.
        """
        check = check_open_clip if self.library == "open_clip" else check_config
        check(self.architecture, where)
        for folder in (self.tokenizer, self.text_model):
            if folder is not None:
                check_transformers(folder)
        return self


@dataclass(frozen=True)
class Quantized:
    """What an already quantized model declares about itself.

    Attributes:
        quant: how it was quantized. base: digest of the full-precision model.
        load: (device, exact_float) -> the model, and the report of its quantization.
    """

    quant: QuantSpec
    base: str
    load: Callable[[str, bool], tuple[ClipModel, QuantizationReport]] = field(repr=False, compare=False)


@dataclass(frozen=True)
class ResolvedModel:
    """A model whose files are on this machine.

    Attributes:
        name: display name, safe in file names and metric keys.
        digest: SHA-256 over the weight files' bytes, the architecture, the preprocessing and the tokenizer's files.
        files: every file that the model is built from.
        parameters: number of stored values, None where the weight file does not tell without being loaded.
        recipe: what its module is built from.
        quantized: for a folder that `reliquant export` wrote; such a model is not quantized again.
        notes: what a reader should know of how it is built, one line each.
        commits: repository of the hub -> the commit that its files come from; empty for local files.
    """

    spec: ModelSpec
    name: str
    family: str
    digest: str
    files: tuple[Path, ...]
    parameters: int | None
    preprocess: Preprocess
    loader: Callable[[str], ClipModel] = field(repr=False, compare=False)
    recipe: Recipe | None = None
    quantized: Quantized | None = None
    notes: tuple[str, ...] = ()
    commits: Mapping[str, str] = field(default_factory=dict)

    @property
    def ref(self) -> str:
        """The reference as the user gave it."""
        return self.spec.ref

    def load(self, device: str = "cpu") -> ClipModel:
        """Build the model on a device, in eval mode.

        Raises:
            ModelError: the checkpoint does not fit its architecture or cannot be read.
            NonFiniteError: a weight is NaN or infinite.
        """
        return self.loader(device)


class Reference(ABC):
    """A kind of model reference, `NAME:REST`; others come through the entry points `reliquant.references`."""

    name: str

    @abstractmethod
    def resolve(self, spec: ModelSpec, *, download: bool = True) -> ResolvedModel:
        """As `benchmark.models.resolve`, for references of this kind."""


references: Registry[Reference] = Registry("kind of model reference", "reliquant.references", Reference)
EXPORTED = "exported"
"""The kind of a folder with an `EXPORT_NAME`, whatever its reference says."""


@dataclass(frozen=True)
class _Parts:
    """The parts that an open_clip reference resolves to; `snapshot`: of the hub, where its weights are from there."""

    config: Mapping[str, Any]
    preprocess: Mapping[str, Any]
    weights: Path
    folder: Path | None
    where: str
    notes: tuple[str, ...] = ()
    snapshot: Snapshot | None = None


def resolve(spec: ModelSpec | str, *, download: bool = True) -> ResolvedModel:
    """Find a model's files and identify it; the weights are hashed but not loaded.

    Args:
        spec: the model, or its reference alone.
        download: whether files that are not cached may be fetched from the hub.

    Raises:
        ModelError: a file is missing or broken, or the hub cannot be reached.
        UnknownNameError: no such architecture or pretrained tag.
    """
    spec = ModelSpec(ref=spec) if isinstance(spec, str) else spec
    if (folder_of(spec.ref) / EXPORT_NAME).is_file():
        return references.get(EXPORTED).resolve(spec, download=download)
    scheme = spec.ref.partition(":")[0]
    if scheme in references:
        return references.get(scheme).resolve(spec, download=download)
    return _resolve_open_clip(spec, _parts(spec.ref, download), download)


def refuse_quantized(models: Iterable[ResolvedModel], purpose: str) -> None:
    """Refuse models that are quantized already.

    Args:
        purpose: the command that would quantize them again, e.g. `search`.

    Raises:
        SpecError: names the model and how it was quantized.
    """
    for model in models:
        if model.quantized is not None:
            raise SpecError(
                f"model {model.ref} is quantized already ({model.quantized.quant.name}) and cannot be quantized again "
                f"({purpose}); `reliquant run` evaluates it as it is, anything else needs the model it was made from"
            )


def _parts(ref: str, download: bool) -> _Parts:
    scheme, _, rest = ref.partition(":")
    if ref == "demo":
        return _from_folder(demo_folder())
    if scheme == "local-dir":
        return _from_folder(Path(rest).expanduser())
    if scheme == "hf-hub":
        return _from_hub(rest, download)
    path = Path(ref).expanduser()
    if path.is_file():
        return _from_file(path)
    if re.fullmatch(r"[a-z-]{2,}", scheme) and rest:
        raise UnknownNameError(references.kind, scheme, ("hf-hub", "local-dir", *references.names()))
    return _from_architecture(ref, download)


def folder_of(ref: str) -> Path:
    """The folder that `PATH`, `local-dir:PATH` or `exported:PATH` names."""
    return Path(ref.removeprefix("local-dir:").removeprefix(f"{EXPORTED}:")).expanduser()


def demo_folder() -> Path:
    """Where the embedded demo checkpoint lies."""
    return Path(__file__).parent.parent / "demo" / "checkpoint"


def _from_folder(folder: Path) -> _Parts:
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such folder (from --model local-dir:PATH)")
    if not (folder / CONFIG_NAME).is_file():
        hint = f"; for a transformers model use transformers:{folder}" if (folder / "config.json").is_file() else ""
        raise ModelError(f"{folder}: {CONFIG_NAME} is missing{hint}")
    config = _read_config(folder / CONFIG_NAME)
    return _Parts(config["model_cfg"], config.get("preprocess_cfg", {}), find_weights(folder), folder, str(folder))


def _from_file(path: Path) -> _Parts:
    if not (path.parent / CONFIG_NAME).is_file():
        raise ModelError(
            f"{path}: which architecture? Put {CONFIG_NAME} beside it, or name one of open_clip's: "
            f"--model ViT-B-32/{path}"
        )
    config = _read_config(path.parent / CONFIG_NAME)
    return _Parts(config["model_cfg"], config.get("preprocess_cfg", {}), path, path.parent, str(path))


def _from_hub(place: str, download: bool) -> _Parts:
    where = f"hf-hub:{place}"
    snapshot = hub.open_model(hub.repository_of(place, where), download=download)
    config = _read_config(snapshot.take([CONFIG_NAME]))
    weights = snapshot.take(WEIGHTS_NAMES)
    return _Parts(config["model_cfg"], config.get("preprocess_cfg", {}), weights, None, where, snapshot=snapshot)


def _from_architecture(ref: str, download: bool) -> _Parts:
    name, _, pretrained = ref.partition("/")
    known = architectures()
    if name not in known:
        if Path(ref).expanduser().is_dir():
            raise ModelError(
                f"{ref}: {EXPORT_NAME} is missing, so this is no folder that `reliquant export` wrote; "
                "for open_clip's layout use local-dir:PATH, for a transformers model transformers:PATH"
            )
        if name in ("", ".", "..", "~") or Path(ref).suffix in (".safetensors", *TORCH_SUFFIXES):
            raise ModelError(f"{ref}: no such file")
        raise UnknownNameError("model", name, ("demo", *known))
    config = read_json(known[name])
    catalogue = tags().list_pretrained_tags_by_model(name)
    if not pretrained:
        raise ModelError(
            f"{ref}: which weights? Use {name}/FILE or {name}/TAG ({', '.join(catalogue) or 'no tag known'})"
        )
    entry = tags().get_pretrained_cfg(name, pretrained)
    if entry:
        notes: tuple[str, ...] = ()
        if entry.get("quick_gelu"):  # `NAME-quickgelu` says the same; open_clip itself only warns
            config["quick_gelu"], notes = True, ("built with QuickGELU, with which these weights were trained",)
        snapshot, weights = fetch_pretrained(entry, ref, download)
        return _Parts(config, entry, weights, None, ref, notes, snapshot)
    file = Path(pretrained).expanduser()
    if file.is_file():
        return _Parts(config, {}, file, None, ref, _activation_unknown(name, file, known))
    if file.suffix in (".safetensors", *TORCH_SUFFIXES):
        raise ModelError(f"{file}: no such weight file (from --model {ref})")
    raise UnknownNameError(f"pretrained tag of {name}", pretrained, catalogue)


def _activation_unknown(name: str, file: Path, known: Container[str]) -> tuple[str, ...]:
    """A note on a weight file, which does not tell its activation, where open_clip knows the architecture with both."""
    twin = f"{name}-quickgelu"
    if twin not in known:
        return ()
    return (f"built with GELU; weights trained with QuickGELU (OpenAI, DFN, MetaCLIP) need {twin}/{file}",)


def weight_location(entry: Mapping[str, Any]) -> tuple[str, list[str]] | None:
    """Hub repository and file names, safetensors first, of one of open_clip's pretrained entries."""
    repository, _, name = str(entry.get("hf_hub") or "").rpartition("/")
    if not repository:
        return None
    if not name:
        return repository, list(WEIGHTS_NAMES)
    return repository, [str(Path(name).with_suffix(".safetensors")), name]


def fetch_pretrained(entry: Mapping[str, Any], ref: str, download: bool) -> tuple[Snapshot, Path]:
    """The weight file of one of open_clip's pretrained entries, and the snapshot that it is from."""
    location = weight_location(entry)
    if location is None:
        raise ModelError(f"{ref}: open_clip names no hub repository for it; download it and use --model NAME/FILE")
    repository, names = location
    snapshot = hub.open_model(repository, download=download)
    return snapshot, snapshot.take(names)


def _read_config(path: Path) -> dict[str, Any]:
    """An open_clip_config.json, with its `model_cfg` and the parts of it that every model has."""
    config = read_json(path)
    model = config.get("model_cfg")
    if not isinstance(model, dict):
        raise ModelError(f"{path}: 'model_cfg' is missing")
    for key, kind in (("embed_dim", int), ("vision_cfg", dict), ("text_cfg", dict)):
        if not isinstance(model.get(key), kind):
            raise ModelError(f"{path}: model_cfg.{key} is missing or not of type {kind.__name__}")
    return config


def _resolve_open_clip(spec: ModelSpec, parts: _Parts, download: bool) -> ResolvedModel:
    check_open_clip(parts.config, parts.where)
    preprocess = from_open_clip(parts.config["vision_cfg"].get("image_size", 224), parts.preprocess, parts.where)
    name = spec.name or display_name(spec.ref)
    tokenizer, text_model, others = _companions(parts, download)
    recipe = Recipe("open_clip", parts.config, tokenizer, text_model).checked(parts.where)
    files = [parts.weights, *recipe.files]
    content = model_digest(parts.config, preprocess, files)
    family = family_of(parts.config)

    def loader(device: str) -> ClipModel:
        from benchmark.models.open_clip import Source, load

        return load(Source(name, family, content, recipe, preprocess, parts.weights), device)

    parameters = count_parameters(parts.weights)
    snapshots = {each.repository.name: each for each in (parts.snapshot, *others) if each is not None}.values()
    for snapshot in snapshots:
        snapshot.keep()
    return ResolvedModel(
        spec, name, family, content, tuple(files), parameters, preprocess, loader, recipe,
        notes=parts.notes, commits=hub.commits(*snapshots),
    )  # fmt: skip


def _companions(parts: _Parts, download: bool) -> tuple[Path | None, Path | None, list[Snapshot]]:
    """Folders of the transformers tokenizer and of the transformers text tower's configuration, where there are any.

    A model folder holds its tokenizer's files itself, and may hold the text tower's `config.json` in a subfolder. A
    repository that names itself means its own commit. Returns the snapshots that they are from, too.
    """
    text = parts.config["text_cfg"]
    wanted, tower = text.get("hf_tokenizer_name"), text.get("hf_model_name")
    if not wanted and not tower:
        return None, None, []
    opened = {each.repository.name: each for each in [parts.snapshot] if each is not None}

    def opens(name: str) -> Snapshot:
        if name not in opened:
            opened[name] = hub.open_model(name, download=download)
        return opened[name]

    if importlib.util.find_spec("transformers") is None:
        raise ModelError(f"{parts.where}: needs the extra 'transformers': pip install 'reliquant[transformers]'")
    tokenizer = text_model = None
    if wanted and parts.folder:
        tokenizer = parts.folder
        if not tokenizer_files(tokenizer):
            raise ModelError(f"{tokenizer}: the tokenizer is missing; put {', '.join(TOKENIZER_FILES[:2])} there")
    elif wanted:
        tokenizer = fetch_tokenizer(opens(wanted))
    if tower:
        inside = parts.folder is not None and (parts.folder / tower / "config.json").is_file()
        fetched = None if inside else opens(tower).take(["config.json"]).parent
        text_model = parts.folder / tower if parts.folder is not None and inside else fetched
    return tokenizer, text_model, list(opened.values())


def fetch_tokenizer(snapshot: Snapshot) -> Path:
    """The folder of a snapshot with all files of its tokenizer.

    Raises:
        ModelError: it has none, or one cannot be fetched.
    """
    names = [name for name in TOKENIZER_FILES if name in snapshot.files]
    return snapshot.fetch(names).folder if names else snapshot.take(TOKENIZER_FILES).parent


def is_cached(entry: Mapping[str, Any]) -> bool:
    """Whether the weights of one of open_clip's pretrained entries lie in the local hub cache."""
    location = weight_location(entry)
    try:
        return location is not None and hub.cached(*location) is not None
    except ReliquantError:
        return False
