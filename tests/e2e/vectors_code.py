"""Ways to bring code in with a model, an export or a data set, each run through the command line and watched.

Every folder has a module `evil.py` that leaves a file behind when it is imported. The command runs in a process with
`y` on its standard input, as often as it is asked for, and with an audit hook that notes every program that is started,
every question that is asked, all code that is run from the folder, and every file that is written there or where
libraries keep other people's modules.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from benchmark.models.references import demo_folder
from tests.e2e import runs
from tests.e2e.vectors import Try

TEXT: dict[str, Any] = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
VISION: dict[str, Any] = {"image_size": 32, "layers": 2, "width": 48, "head_width": 16, "patch_size": 8}
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_hidden_layers": 2}
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "photo", "dog")
CODE = "evil.Evil"
AUTO = dict.fromkeys(("AutoConfig", "AutoModel", "AutoProcessor", "AutoImageProcessor"), CODE) | {
    "AutoTokenizer": [CODE, CODE]
}
BERT = SIZES | {"model_type": "bert", "vocab_size": len(WORDS), "max_position_embeddings": 16, "pad_token_id": 0}
CLIP: dict[str, Any] = {
    "model_type": "clip",
    "projection_dim": 24,
    "text_config": SIZES | {"model_type": "clip_text_model", "vocab_size": len(WORDS), "max_position_embeddings": 12},
    "vision_config": SIZES | {"model_type": "clip_vision_model", "image_size": 32, "patch_size": 8},
}
PROCESSOR = {"size": {"shortest_edge": 32}, "do_center_crop": True, "crop_size": {"height": 32, "width": 32}} | {
    "resample": 3,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}
STARTS = frozenset(
    ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "pty.spawn")
)
DANGEROUS = frozenset(("os", "posix", "nt", "subprocess", "builtins", "sys", "importlib", "runpy", "shutil"))


@dataclass(frozen=True)
class Vector:
    """One way; `build` fills a folder and gives the suite's `models` and `data`.

    Attributes:
        says: part of the one line that refuses it; None: it runs as if the code were not there.
        inside: the command runs in the folder.
    """

    name: str
    build: Callable[[Path], Mapping[str, Any]]
    says: str | None
    inside: bool = False


def tries(tmp: Path) -> list[Try]:
    """All of them; each attempt has a folder of its own below `tmp`."""
    return [Try("code", vector.name, partial(attempt, vector, tmp / f"code-{i}")) for i, vector in enumerate(VECTORS)]


def attempt(vector: Vector, place: Path) -> str:
    """Build it, run `reliquant run` on it, and say what came of it.

    Raises:
        AssertionError: code ran, a program started, a question was asked, or the answer is no single line.
    """
    folder, canary, seen = place / "stranger", place / "canary", place / "seen"
    folder.mkdir(parents=True)
    (folder / "evil.py").write_text(f"open({str(canary)!r}, 'w').close()\n\nclass Evil:\n    pass\n")
    suite = {
        "name": "hostile",
        "version": 1,
        "quantizations": ["fp32"],
        "models": ["demo"],
        "data": {"scenes": {"source": "demo", "split": "test", "limit": 8}},
        "tasks": {"zero_shot": {"scenes": {"test": "scenes"}}},
    }
    (place / "suite.yaml").write_text(json.dumps(suite | vector.build(folder)))
    options = ["--home", str(place / "home"), "--tracker", "jsonl", "--no-speed"]
    watched = partial(watch, folder, seen, folder if vector.inside else place)
    status = runs.finish(runs.main(place, "run", str(place / "suite.yaml"), *options, spoil=watched))
    said = (place / "log").read_text()
    assert not canary.exists(), f"{vector.name}: its code ran"
    assert not seen.exists(), f"{vector.name}: {seen.read_text()}"
    assert "Traceback" not in said, f"{vector.name}: {said}"
    lines = [line for line in said.splitlines() if line.startswith("reliquant: error: ")]
    if vector.says is None:
        assert status == 0, f"{vector.name}: {said}"
        return "inert"
    assert status == 2, f"{vector.name}: exit status {status}: {said}"
    assert len(lines) == 1, f"{vector.name}: {said}"
    assert vector.says in lines[0], f"{vector.name}: refused for another reason: {lines[0]}"
    return f"refused: {lines[0].removeprefix('reliquant: error: ')}"


def watch(folder: Path, seen: Path, where: Path) -> None:
    """Answer every question with `y`, and note in `seen` what must not happen."""
    import datasets.config
    import huggingface_hub.constants

    datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = True
    os.chdir(where)
    answers = folder.parent / "answers"
    answers.write_text("y\n" * 100)
    os.dup2(os.open(answers, os.O_RDONLY), 0)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    marks = (str(folder), "transformers_modules", "datasets_modules")

    def note(text: str) -> None:
        file = os.open(seen, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(file, f"{text}\n".encode())
        os.close(file)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in STARTS:
            note(f"{event} {arguments[:2]}")
        elif event == "builtins.input":
            note("a question was asked")
        elif event == "exec" and any(mark in getattr(arguments[0], "co_filename", "") for mark in marks):
            note(f"code was run: {arguments[0].co_filename}")
        elif event == "pickle.find_class" and arguments[0] in DANGEROUS:
            note(f"a pickle took {arguments[0]}.{arguments[1]}")

    def written(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str) and int(arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR):
            path = os.path.join(os.getcwd(), arguments[0])  # noqa: PTH109, PTH118
            if any(mark in path for mark in marks):
                note(f"a file was written: {path}")

    sys.addaudithook(hook)
    sys.addaudithook(written)


# What models look like ---------------------------------------------------------------------------------------------


def _write(folder: Path, files: Mapping[str, Any]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))


def _weights(file: Path) -> None:
    save_file({"visual.x": np.zeros(1, np.float32)}, file)


def _bert(**more: Any) -> dict[str, Any]:
    """A tokenizer's files."""
    return {"vocab.txt": "\n".join(WORDS), "tokenizer_config.json": {"tokenizer_class": "BertTokenizer"} | more}


def _local(
    text: Mapping[str, Any] | None = None,
    vision: Mapping[str, Any] | None = None,
    files: Mapping[str, Any] | None = None,
    **top: Any,
) -> Callable[[Path], Mapping[str, Any]]:
    """A folder of open_clip's layout."""

    def build(folder: Path) -> Mapping[str, Any]:
        here = {key: _placed(value, folder) for key, value in (text or {}).items()}
        towers = {"vision_cfg": VISION | dict(vision or {}), "text_cfg": TEXT | here}
        _write(folder, {"open_clip_config.json": {"model_cfg": {"embed_dim": 24} | towers | top}} | dict(files or {}))
        _weights(folder / "open_clip_model.safetensors")
        return {"models": [f"local-dir:{folder}"]}

    return build


def _placed(value: Any, folder: Path) -> Any:
    return value.replace("FOLDER", str(folder)) if isinstance(value, str) else value


def _transformers(files: Mapping[str, Any] | None = None, **config: Any) -> Callable[[Path], Mapping[str, Any]]:
    """A folder of transformers' layout."""

    def build(folder: Path) -> Mapping[str, Any]:
        _weights(folder / "model.safetensors")
        usual = {"config.json": CLIP | config, "preprocessor_config.json": PROCESSOR} | _bert()
        _write(folder, usual | dict(files or {}))
        return {"models": [f"transformers:{folder}"]}

    return build


def _shards(name: str) -> Callable[[Path], Mapping[str, Any]]:
    """A folder of transformers' layout with a weight index alone."""

    def build(folder: Path) -> Mapping[str, Any]:
        models = _transformers()(folder)
        (folder / "model.safetensors").unlink()
        parts = {"metadata": {}, "weight_map": {"x": _placed(name, folder)}}
        _write(folder, {"model.safetensors.index.json": parts})
        return models

    return build


def _export(
    model: Mapping[str, Any], files: Mapping[str, Any], *, library: str = "open_clip", late: Sequence[str] = ()
) -> Callable[[Path], Mapping[str, Any]]:
    """A folder as `reliquant export` writes it, made by hand; `late` files come after the digests."""

    def build(folder: Path) -> Mapping[str, Any]:
        from benchmark.quantization import parse

        (folder / "evil.py").rename(folder.parent / "evil.py")
        _write(folder, {"quantization_report.json": {"towers": {}}} | {k: v for k, v in files.items() if k not in late})
        _weights(folder / "model.safetensors")
        quant = parse("rtn-w4-g16-vision")
        base = {
            **{"ref": "demo", "name": "demo", "family": "ViT", "sha256": "0", "parameters": 1, "library": library},
            "architecture": model,
            "preprocess": {"size": [32, 32], "mean": [0.5] * 3, "std": [0.5] * 3},
            "tokenizer": any(name.startswith("base/tokenizer") for name in files),
            "text_model": "base/text_model/config.json" in files,
        }
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        sums = {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}
        config = {
            **{"format": 2, "short_name": quant.name, "quantization": quant.model_dump(mode="json"), "base": base},
            **{"layers": {"visual.x": {"weight": {}}}, "files": sums, "logit_scale": 1.0, "logit_bias": 0.0},
        }
        _write(folder, {"reliquant.json": config} | {name: files[name] for name in late})
        (folder.parent / "evil.py").rename(folder / ".evil.py" if not late else folder / "base" / "evil.py")
        return {"models": [str(folder)]}

    return build


def _stray(folder: Path) -> Mapping[str, Any]:
    """A good model whose folder, where the command runs, is full of modules with the names of libraries."""
    shutil.copytree(demo_folder(), folder, dirs_exist_ok=True)
    names = ("open_clip", "transformers", "tokenizers", "timm", "torch", "sitecustomize", "conftest", "setup", "tasks")
    for name in (*names, "__init__", "handler", "modeling_evil", "tokenization_evil"):
        (folder / f"{name}.py").write_text((folder / "evil.py").read_text())
    return {"models": [f"local-dir:{folder}"]}


def _data(**data: Any) -> Callable[[Path], Mapping[str, Any]]:
    """A data set; in the folder lie a data set, and a script, of every name that such a path could mean."""

    def build(folder: Path) -> Mapping[str, Any]:
        code = (folder / "evil.py").read_text()
        for name in ("org/pictures", "pictures", "csv"):
            script = f"{name}/{Path(name).name}.py"
            _write(folder, {script: code, f"{name}/test.csv": "image,label\nx,1\n", f"{name}/dataset_infos.json": {}})
        return {"data": {"scenes": {key: _placed(value, folder) for key, value in data.items()}}}

    return build


# What is tried -----------------------------------------------------------------------------------------------------

NAMED = {"hf_tokenizer_name": "org/name", "vocab_size": len(WORDS)}
TOWER = NAMED | {"hf_model_name": "tower", "hf_proj_type": "linear", "hf_pooler_type": "cls_pooler"}
MAPPED = _bert(auto_map=AUTO) | {"config.json": {"model_type": "evil"}}


def _options(**options: Any) -> dict[str, Any]:
    return NAMED | {"tokenizer_kwargs": options}


def _tower(config: Mapping[str, Any]) -> Callable[[Path], Mapping[str, Any]]:
    return _local(TOWER, files=_bert() | {"tower/config.json": config, "tower/evil.py": "import evil"})


_CRAFTED = {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT | NAMED}
_BASE = {f"base/{name}": content for name, content in _bert().items()}
_EVIL_BASE = {f"base/{name}": content for name, content in MAPPED.items()}
_TOKENIZER_OPTIONS: dict[str, Any] = {
    **{"trust_remote_code": True, "config": {}, "tokenizer_type": "bert", "gguf_file": "x", "mistral_format": True},
    **{"cache_dir": "x", "subfolder": "x", "revision": "x", "token": "x", "proxies": {}, "code_revision": "x"},
    **{"tokenizer_file": "x", "vocab_file": "x", "auto_map": AUTO, "_from_auto": True, "local_files_only": False},
}
_CONFIG_KEYS: dict[str, Any] = {
    "auto_map": AUTO,
    "custom_pipelines": {"x": {"impl": CODE}},
    "quantization_config": {"quant_method": "gptq", "bits": 4},
    "attn_implementation": "stranger/kernel",
    "_attn_implementation": "kernels-community/flash-attn",
    "experts_implementation": "stranger/kernel",
    "configuration_files": ["config.4.0.0.json"],
    "transformers_weights": "evil.safetensors",
    "tokenizer_class": "AutoModel",
    "trust_remote_code": True,
}
_REPOSITORIES = ("../pictures", "./pictures", "FOLDER/pictures", "pictures.py", "org/pictures.py", "~/x", "a/b/c", "..")
_REPOSITORIES += ("hf://datasets/org/pictures", "https://example.org/x", "buckets/x", "org\\pictures", "org/..", "-x")

VECTORS: tuple[Vector, ...] = (
    *(
        Vector(
            f"open_clip: tokenizer_kwargs.{key}", _local(_options(**{key: value}), files=MAPPED), f"kwargs.{key}: not"
        )
        for key, value in _TOKENIZER_OPTIONS.items()
    ),
    Vector("open_clip: auto_map of the tokenizer", _local(NAMED, files=MAPPED), "'auto_map' names code"),
    Vector(
        "open_clip: auto_map beside the tokenizer",
        _local(NAMED, files=_bert() | {"config.json": {"model_type": "evil", "auto_map": AUTO}}),
        "'auto_map' names code",
    ),
    Vector(
        "open_clip: the tokenizer is a model class",
        _local(NAMED, files=_bert(tokenizer_class="AutoModel") | {"config.json": {"model_type": "evil"}}),
        "tokenizer class 'AutoModel'",
    ),
    Vector(
        "open_clip: a tokenizer class that starts programs",
        _local(NAMED, files=_bert(tokenizer_class="BertJapaneseTokenizer", word_tokenizer_type="jumanpp")),
        "tokenizer class 'BertJapaneseTokenizer'",
    ),
    Vector(
        "open_clip: a model_type whose tokenizer starts programs",
        _local(NAMED, files={"vocab.txt": "[PAD]", "config.json": {"model_type": "bert-japanese"}}),
        "BertJapaneseTokenizer",
    ),
    Vector("open_clip: bpe_path", _local({"tokenizer_kwargs": {"bpe_path": "FOLDER/x.gz"}}), "kwargs.bpe_path: not"),
    Vector(
        "open_clip: a reduction_mask that downloads a pickle",
        _local({"tokenizer_kwargs": {"reduction_mask": "syntax"}}),
        "kwargs.reduction_mask: not",
    ),
    Vector("open_clip: an unknown clean", _local({"tokenizer_kwargs": {"clean": "os.system"}}), "clean must be"),
    *(
        Vector(f"open_clip: text tower, {name}", _tower(config), says)
        for name, config, says in (
            ("auto_map, unknown model_type", {"model_type": "evil", "auto_map": AUTO}, "'auto_map' names code"),
            ("auto_map, known model_type", BERT | {"auto_map": AUTO}, "'auto_map' names code"),
            ("auto_map below", BERT | {"text_config": {"auto_map": AUTO}}, "'text_config.auto_map' names code"),
            (
                "auto_map, a type that has no model of its own",
                {"model_type": "encoder-decoder", "encoder": BERT, "decoder": BERT, "auto_map": AUTO},
                "'auto_map' names code",
            ),
            ("auto_map of another repository", BERT | {"auto_map": {"AutoModel": "org/x--evil.Evil"}}, "names code"),
            ("quantization_config", BERT | {"quantization_config": {"quant_method": "awq"}}, "quantized already"),
            ("an unknown model_type", {"model_type": "evil"}, "cannot be built"),
            ("attention from the hub", BERT | {"_attn_implementation": "stranger/kernel"}, "must be eager or sdpa"),
        )
    ),
    *(
        Vector(f"open_clip: {key} {name}", _local(TOWER | {key: name}, files=_bert()), f"{key}: ")
        for key in ("hf_model_name", "hf_tokenizer_name")
        for name in ("../tower", "FOLDER/tower", "./tower", "evil.py", "~/tower")
    ),
    *(
        Vector(
            f"open_clip: timm_model_name {name}", _local(vision={"timm_model_name": name}), "timm_model_name must be"
        )
        for name in ("hf-hub:stranger/model", "local-dir:FOLDER", "stranger/model", "hf_hub:stranger/model")
    ),
    Vector("open_clip: act_kwargs", _local({"act_kwargs": {"device": "x"}}), "act_kwargs.device: not"),
    Vector("open_clip: an unknown key", _local(pretrained_image="FOLDER/x.bin"), "model_cfg.pretrained_image: unknown"),
    Vector("open_clip: modules named like libraries", _stray, None, inside=True),
    *(
        Vector(f"transformers: config.json, {key}", _transformers(**{key: value}), f"'{key}'")
        for key, value in _CONFIG_KEYS.items()
    ),
    Vector(
        "transformers: auto_map, unknown model_type",
        _transformers(model_type="evil", auto_map=AUTO),
        "'auto_map' names",
    ),
    Vector(
        "transformers: auto_map of one tower",
        _transformers(vision_config=CLIP["vision_config"] | {"auto_map": AUTO}),
        "'vision_config.auto_map' names",
    ),
    Vector(
        "transformers: auto_map of a tower of unknown type",
        _transformers(
            model_type="vision-text-dual-encoder",
            vision_config={"model_type": "evil", "auto_map": AUTO},
            text_config=BERT,
        ),
        "'vision_config.auto_map' names",
    ),
    Vector(
        "transformers: a tower of timm from the hub",
        _transformers(
            model_type="vision-text-dual-encoder",
            vision_config={"model_type": "timm_wrapper", "architecture": "hf-hub:stranger/model"},
            text_config=BERT,
        ),
        "'vision_config.architecture' must be",
    ),
    Vector("transformers: auto_map of the tokenizer", _transformers(_bert(auto_map=AUTO)), "'auto_map' names code"),
    Vector(
        "transformers: auto_map of the tokenizer as a list",
        _transformers(_bert(auto_map=[CODE, CODE]), model_type="evil"),
        "'auto_map' names code",
    ),
    Vector(
        "transformers: the tokenizer is a model class",
        _transformers(_bert(tokenizer_class="AutoModelForCausalLM")),
        "tokenizer class 'AutoModelForCausalLM'",
    ),
    Vector(
        "transformers: auto_map of the processor",
        _transformers({"preprocessor_config.json": PROCESSOR | {"auto_map": AUTO}}),
        "preprocessor_config.json: 'auto_map' names code",
    ),
    Vector(
        "transformers: an adapter",
        _transformers({"adapter_config.json": {"peft_type": "LORA", "auto_mapping": {"parent_library": "evil"}}}),
        "adapters are not loaded",
    ),
    Vector(
        "transformers: generation code",
        _transformers(
            {"generation_config.json": {"custom_generate": "FOLDER"}, "custom_generate/generate.py": "import evil"}
        ),
        "'custom_generate' names code",
    ),
    *(
        Vector(f"transformers: a weight index that names {name}", _shards(name), "'weight_map' must name")
        for name in ("evil.bin", "../x.safetensors", "FOLDER/x.safetensors")
    ),
    Vector(
        "export: a tokenizer added to base/",
        _export(_CRAFTED, _EVIL_BASE, late=["base/tokenizer_config.json"]),
        "not one of the files",
    ),
    Vector("export: auto_map, with digests", _export(_CRAFTED, _EVIL_BASE), "'auto_map' names code"),
    Vector(
        "export: trust_remote_code, with digests",
        _export(_CRAFTED | {"text_cfg": TEXT | _options(trust_remote_code=True)}, _EVIL_BASE),
        "tokenizer_kwargs.trust_remote_code: not",
    ),
    Vector(
        "export: auto_map of the text tower, with digests",
        _export(
            _CRAFTED | {"text_cfg": TEXT | TOWER},
            _BASE | {"base/text_model/config.json": {"model_type": "evil", "auto_map": AUTO}},
        ),
        "'auto_map' names code",
    ),
    Vector(
        "export: a timm tower from the hub, with digests",
        _export(_CRAFTED | {"vision_cfg": {"timm_model_name": "hf-hub:stranger/model"}}, _BASE),
        "timm_model_name must be",
    ),
    Vector(
        "export: auto_map of a transformers model, with digests",
        _export(
            CLIP, _BASE | {"base/config.json": CLIP | {"model_type": "evil", "auto_map": AUTO}}, library="transformers"
        ),
        "'auto_map' names code",
    ),
    Vector(
        "export: a transformers model without towers",
        _export(BERT, _BASE | {"base/config.json": BERT}, library="transformers"),
        "BertModel is no dual encoder",
    ),
    Vector(
        "export: auto_map in reliquant.json alone",
        _export(CLIP | {"auto_map": AUTO}, _BASE | {"base/config.json": CLIP}, library="transformers"),
        "reliquant.json: 'auto_map' names code",
    ),
    *(
        Vector(f"hub data: {name}", _data(source="hub", path=name), "'path' must be an id", inside=True)
        for name in _REPOSITORIES
    ),
    *(
        Vector(
            f"hub data: {name}, a folder here", _data(source="hub", path=name), "not in the local cache", inside=True
        )
        for name in ("org/pictures", "pictures")
    ),
    *(
        Vector(f"hub data: {name}, a reader of files", _data(source="hub", path=name), "not in the local cache", True)
        for name in ("csv", "pandas", "imagefolder")
    ),
    *(
        Vector(f"{source} data: a folder with a script", _data(source=source, path="FOLDER/org/pictures"), says)
        for source, says in (
            ("parquet", "no *.parquet or *.arrow"),
            ("webdataset", "tar"),
            ("image_folder", "pictures"),
        )
    ),
)
"""Every known way, and what must be said."""
