"""Checks of untrusted model configurations: they may ask for data, never for code.

open_clip, timm and transformers take names of modules, repositories and files from such configurations, and some of
them make these libraries import Python from the model's folder or from the hub. So each configuration is checked
against the lists below before a library sees it, and `guarded` calls the library with imports from a folder disabled.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from benchmark.errors import ModelError, ReliquantError
from benchmark.models.identity import read_json
from benchmark.spec import HUB_ID


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


MODEL_KEYS = _names(
    "embed_dim vision_cfg text_cfg multimodal_cfg custom_text quick_gelu init_logit_scale init_logit_bias "
    "nonscalar_logit_scale output_dict pad_id"
)
_BLOCK_KEYS = _names(
    "layers width mlp_ratio ls_init_value output_tokens pool_type act_kwargs norm_kwargs block_type qk_norm "
    "scaled_cosine_attn scale_heads scale_attn_inner scale_attn scale_fc final_ln_after_pool"
)
VISION_KEYS = _BLOCK_KEYS | _names(
    "head_width patch_size image_size patch_dropout attentional_pool attn_pooler_queries attn_pooler_heads no_ln_pre "
    "pos_embed_type timm_model_name timm_model_pretrained timm_pool timm_proj timm_proj_bias timm_drop timm_drop_path"
)
TEXT_KEYS = _BLOCK_KEYS | _names(
    "context_length vocab_size hf_tokenizer_name tokenizer_mode tokenizer_kwargs heads embed_cls pad_id eos_id "
    "no_causal_mask proj_bias proj_type hf_model_name hf_model_pretrained hf_proj_type hf_pooler_type"
)
MULTIMODAL_KEYS = TEXT_KEYS | _names("dim_head n_queries attn_pooler_heads")
LAYER_OPTIONS = {"act_kwargs": _names("approximate"), "norm_kwargs": _names("eps elementwise_affine bias")}

SIMPLE_TOKENIZER_OPTIONS = _names("clean")
"""What `text_cfg.tokenizer_kwargs` may give open_clip's own tokenizer: `bpe_path` would open any file, and a
`reduction_mask` draws at random (one of them downloads and unpickles a tagger)."""

HF_TOKENIZER_OPTIONS = _names(
    "clean strip_sep_token language padding_side truncation_side model_max_length use_fast legacy add_prefix_space "
    "add_bos_token add_eos_token do_lower_case bos_token eos_token unk_token sep_token pad_token cls_token mask_token"
)
CLEANINGS = _names("canonicalize lower whitespace")

TOKENIZERS = {"TokenizersBackend"} | {
    f"{name}Tokenizer"
    for name in _names(
        "Albert Bart Bert BigBird Camembert CLIP CodeLlama Cohere Deberta DebertaV2 DistilBert Electra Gemma GPT2 "
        "GPTNeoX Llama M2M100 MBart MBart50 MobileBert MPNet MT5 Mvp Nllb OpenAIGPT Pegasus PreTrained Qwen2 "
        "RemBert Roberta Siglip Siglip2 T5 Tipsv2 XLMRoberta XLNet"
    )
}
"""Tokenizer classes of transformers that a folder may name, `Fast` or not: each reads vocabularies and nothing more.

transformers would take any name that it exports, `AutoModel` too, and some classes start programs or load plugins."""

ATTENTIONS = (None, "eager", "sdpa")

TRANSFORMERS_FILES = (
    *("config.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"),
    *("preprocessor_config.json", "processor_config.json"),
)


def check_hub_id(name: str, where: str) -> str:
    """The id of a hub repository.

    Raises:
        ModelError: a path, a script, or otherwise no id.
    """
    if not isinstance(name, str) or not re.fullmatch(HUB_ID, name):
        raise ModelError(f"{where}: {name!r} is no id of the hub; give one such as org/name")
    return name


def check_open_clip(config: Mapping[str, Any], where: str) -> None:
    """Refuse a `model_cfg` with a key that open_clip does not know, or a value that could lead to code.

    Raises:
        ModelError: names `where` and the key.
    """
    place = f"{where}: model_cfg"
    _check_keys(config, MODEL_KEYS, place)
    for part, known in (("vision_cfg", VISION_KEYS), ("text_cfg", TEXT_KEYS), ("multimodal_cfg", MULTIMODAL_KEYS)):
        if part == "multimodal_cfg" and part not in config:
            continue
        section = config.get(part)
        if not isinstance(section, Mapping):
            raise ModelError(f"{place}.{part} must be an object (got {section!r})")
        _check_keys(section, known, f"{place}.{part}")
        for name, options in LAYER_OPTIONS.items():
            _check_options(section.get(name), options, f"{place}.{part}.{name}")
    vision, text = config["vision_cfg"], config["text_cfg"]
    _check_timm_name(vision.get("timm_model_name"), f"{place}.vision_cfg.timm_model_name")
    for key in ("hf_model_name", "hf_tokenizer_name"):
        if text.get(key):
            check_hub_id(text[key], f"{place}.text_cfg.{key}")
    allowed = HF_TOKENIZER_OPTIONS if text.get("hf_tokenizer_name") else SIMPLE_TOKENIZER_OPTIONS
    options = text.get("tokenizer_kwargs")
    _check_options(options, allowed, f"{place}.text_cfg.tokenizer_kwargs")
    if options and options.get("clean", "lower") not in CLEANINGS:
        raise ModelError(f"{place}.text_cfg.tokenizer_kwargs.clean must be {_or(CLEANINGS)} (got {options['clean']!r})")


def check_transformers(folder: Path) -> None:
    """Refuse a folder of transformers' layout whose files ask for code, an adapter or packed weights.

    Raises:
        ModelError: names the file and the key.
    """
    for name in TRANSFORMERS_FILES:
        if (folder / name).is_file():
            check_config(read_json(folder / name), str(folder / name))
    adapter = folder / "adapter_config.json"
    if adapter.exists():
        raise ModelError(f"{adapter}: adapters are not loaded; merge it into the weights and remove the file")


def check_config(config: Mapping[str, Any], where: str) -> None:
    """Refuse a key of one of transformers' configuration files, at any depth, that could lead to code.

    Raises:
        ModelError: names `where` and the key.
    """
    waiting: list[tuple[str, Any]] = [("", config)]
    while waiting:
        path, value = waiting.pop()
        entries = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
        for key, entry in entries:
            place = f"{path}.{key}" if path else str(key)
            rule = RULES.get(str(key))
            if rule is not None and (reason := rule(entry)):
                raise ModelError(f"{where}: '{place}' {reason}")
            waiting.append((place, entry))


def check_tokenizer_class(folder: Path) -> None:
    """Refuse a folder whose `model_type` makes transformers take a tokenizer that is not in `TOKENIZERS`.

    Raises:
        ModelError: names the file and the class.
    """
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

    path = folder / "config.json"
    kind = read_json(path).get("model_type") if path.is_file() else None
    if reason := _foreign_tokenizer(TOKENIZER_MAPPING_NAMES.get(kind) if isinstance(kind, str) else None):
        raise ModelError(f"{path}: 'model_type' {reason}")


@contextmanager
def guarded(where: Path | str, what: str) -> Iterator[None]:
    """Call a library on untrusted files: it can neither prompt for permission nor import their modules.

    transformers asks on the terminal wherever `trust_remote_code` is not given, and it does not give it in its own
    calls for parts of a model; a time limit of 0 is its own way of never asking.

    Raises:
        ModelError: whatever the library raises, as `where: what (first line)`.
    """
    try:
        with _no_remote_code():
            yield
    except (ReliquantError, MemoryError):
        raise
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelError(f"{where}: {what} ({reason})") from error


@contextmanager
def _no_remote_code() -> Iterator[None]:
    if importlib.util.find_spec("transformers") is None:
        yield
        return
    modules = importlib.import_module("transformers.dynamic_module_utils")
    with mock.patch.multiple(
        modules, TIME_OUT_REMOTE_CODE=0, get_cached_module_file=_refuse, get_class_in_module=_refuse
    ):
        yield


def _refuse(wanted: object, *_: object, **__: object) -> object:
    raise ModelError(f"{wanted}: asks for Python code of the model's own, which is never run; use a model without")


def _check_keys(config: Mapping[str, Any], known: Collection[str], where: str) -> None:
    for key in config:
        if key not in known:
            raise ModelError(f"{where}.{key}: unknown to open_clip; remove it")


def _check_options(options: Any, known: Collection[str], where: str) -> None:
    """Options that become keyword arguments: names of a list, values that are plain."""
    if options is None:
        return
    if not isinstance(options, Mapping):
        raise ModelError(f"{where} must be an object (got {options!r})")
    for key, value in options.items():
        if key not in known:
            raise ModelError(f"{where}.{key}: not taken from a model, since it could lead to code; use {_or(known)}")
        if not isinstance(value, str | int | float | bool | None):
            raise ModelError(f"{where}.{key} must be a text, a number or true or false (got {value!r})")


def _check_timm_name(name: Any, where: str) -> None:
    if reason := _foreign_timm(name):
        raise ModelError(f"{where} {reason}")


def _or(names: Collection[str]) -> str:
    listed = sorted(names)
    return f"{', '.join(listed[:-1])} or {listed[-1]}" if len(listed) > 1 else listed[0]


def _code(value: Any) -> str | None:
    return "names code of the model's own, which is never run; use a model without" if value else None


def _trust(value: Any) -> str | None:
    return "asks for code of the model's own, which is never run; remove it" if value else None


def _packed(value: Any) -> str | None:
    return None if value is None else "says that the weights are quantized already; give the full-precision model"


def _elsewhere(value: Any) -> str | None:
    return "names other files in place of the usual ones; rename them and remove it" if value else None


def _pretrained(value: Any) -> str | None:
    return "fetches a part of the model from elsewhere; remove it" if value else None


def _foreign_timm(value: Any) -> str | None:
    if value is None or (isinstance(value, str) and re.fullmatch(r"[\w.-]*", value)):
        return None
    return f"must be the name of a timm architecture such as vit_base_patch16_224 (got {value!r})"


def _foreign_attention(value: Any) -> str | None:
    given = list(value.values()) if isinstance(value, Mapping) else [value]
    if all(entry is None or entry in ATTENTIONS for entry in given):
        return None
    return f"must be eager or sdpa, or absent, since others are fetched as code (got {value!r})"


def _foreign_tokenizer(value: Any) -> str | None:
    if value is None or (isinstance(value, str) and value.removesuffix("Fast") in TOKENIZERS):
        return None
    return (
        f"leads to the tokenizer class {value!r}, which may do more than read a vocabulary; use PreTrainedTokenizerFast"
    )


RULES: Mapping[str, Callable[[Any], str | None]] = {
    **dict.fromkeys(("auto_map", "custom_pipelines", "custom_generate"), _code),
    "trust_remote_code": _trust,
    **dict.fromkeys(("quantization_config", "compression_config"), _packed),
    **dict.fromkeys(("configuration_files", "fast_tokenizer_files", "transformers_weights", "gguf_file"), _elsewhere),
    **dict.fromkeys(("backbone", "backbone_config", "backbone_kwargs", "use_timm_backbone"), _pretrained),
    **dict.fromkeys(("use_pretrained_backbone", "model_args", "kernel_config", "use_kernels"), _pretrained),
    "architecture": _foreign_timm,
    "tokenizer_class": _foreign_tokenizer,
    **dict.fromkeys(
        ("attn_implementation", "_attn_implementation", "_attn_implementation_internal", "experts_implementation"),
        _foreign_attention,
    ),
    **dict.fromkeys(("_experts_implementation", "_experts_implementation_internal"), _foreign_attention),
}
"""Key of a transformers configuration -> what is wrong with a value, None where it is harmless."""
