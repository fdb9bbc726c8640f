"""CLIP-like models of the package transformers (the extra `transformers`): ALIGN, CLIP, SigLIP, AltCLIP, ...

A model takes part if it has `get_image_features`, `get_text_features` and a `logit_scale` (or ALIGN's temperature),
and if it encodes a plain pixel tensor. Weights are read from safetensors only; no remote code is run.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.errors import ModelError
from benchmark.models.checkpoint import check_finite
from benchmark.models.preprocess import Preprocess
from benchmark.models.untrusted import check_tokenizer_class, check_transformers, guarded
from benchmark.spec import Tower

if TYPE_CHECKING:
    from torch import Tensor, nn

    from benchmark.models.base import ClipModel, Tap
    from benchmark.models.texts import TokenMask

TOWERS: dict[Tower, tuple[str, ...]] = {
    "vision": ("vision_model", "visual_projection"),
    "text": ("text_model", "text_projection"),
}


def load(
    name: str,
    family: str,
    content: str,
    folder: Path,
    preprocess: Preprocess,
    device: str,
    restore: Callable[[nn.Module], None] | None = None,
) -> ClipModel:
    """Build the model from its folder.

    Args:
        restore: fills the module, its attention already rewritten, instead of the folder's weights.

    Raises:
        ModelError: the extra is missing, the weights do not match, or it is no dual encoder of images and texts.
        NonFiniteError: a weight is NaN or infinite.
    """
    if importlib.util.find_spec("transformers") is None:
        raise ModelError(f"{name}: needs the extra 'transformers': pip install 'reliquant[transformers]'")
    from benchmark.models.attention import unroll
    from benchmark.models.base import ClipModel
    from benchmark.models.structure import block_names
    from benchmark.models.texts import shortened

    check_transformers(folder)
    with _quiet():
        module = _build(folder) if restore is None else _blank(folder)
        _check_towers(module, folder)
        tokenizer, padding = _tokenizer(folder, module.config)
    if family == "ALIGN":
        module.text_model.pooler = None  # BERT's pooler runs, but ALIGN projects the class token's own output
    check_finite(dict(module.named_parameters()), folder)
    module.eval().requires_grad_(False)
    unroll(module)
    if restore is not None:
        restore(module)
    scale, bias = _logit_parameters(module, folder)
    mask = _token_mask(module, padding)
    blocks = {tower: block_names(module, prefixes) for tower, prefixes in TOWERS.items()}
    model = ClipModel(
        name=name,
        family=family,
        digest=content,
        module=module.to(device),
        preprocess=preprocess,
        tokenizer=shortened(tokenizer, mask),
        image_encoder=_encode_image,
        text_encoder=TextEncoder(padding),
        towers=TOWERS,
        blocks=blocks,
        logit_scale=scale,
        logit_bias=bias,
        token_mask=mask,
        taps=_taps(module, blocks["vision"]),
    )
    _probe(model, folder)
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bars, load reports and the warnings of its optional imports."""
    tree = logging.getLogger("torch.utils._pytree")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # importing it byte-compiles optional packages that warn about themselves
        tree.addFilter(_nothing)  # and torchao, if installed, registers its enums in a way that torch deprecates
        from transformers.utils import logging as library_logging

        level = library_logging.get_verbosity()
        library_logging.set_verbosity(logging.CRITICAL)
        library_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        try:
            yield
        finally:
            tree.removeFilter(_nothing)
            library_logging.set_verbosity(level)
            library_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _nothing(record: logging.LogRecord) -> bool:
    return False


def _build(folder: Path) -> Any:
    """The module with its weights; every tensor must match the architecture."""
    import torch
    from transformers import AutoModel

    options: dict[str, Any] = {"use_safetensors": True, "local_files_only": True, "trust_remote_code": False}
    options["ignore_mismatched_sizes"] = True  # the load report names them
    with guarded(folder, "transformers cannot load it"):
        module, report = AutoModel.from_pretrained(folder, dtype=torch.float32, output_loading_info=True, **options)
    problems = [
        f"{kind} {', '.join(map(str, sorted(found)[:2]))}" + (f" and {len(found) - 2:,} more" if len(found) > 2 else "")
        for kind, found in (
            ("missing", list(report["missing_keys"])),
            ("unexpected", [key for key in report["unexpected_keys"] if not key.endswith("position_ids")]),
            ("wrong shape", [key[0] if isinstance(key, tuple) else key for key in report["mismatched_keys"]]),
        )
        if found
    ]
    if problems:
        raise ModelError(f"{folder}: the weights do not match the architecture: {'; '.join(problems)}")
    return module


def _check_towers(module: Any, folder: Path) -> None:
    for part in ("get_image_features", "get_text_features", "vision_model", "text_model"):
        if not hasattr(module, part):
            raise ModelError(f"{folder}: {type(module).__name__} is no dual encoder of images and texts (no {part})")


def _blank(folder: Path) -> Any:
    """The module with random weights."""
    import torch
    from transformers import AutoConfig, AutoModel

    with guarded(folder, "transformers cannot build it"):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        return AutoModel.from_config(config, dtype=torch.float32, trust_remote_code=False)  # type: ignore[no-untyped-call]


def _logit_parameters(module: Any, folder: Path) -> tuple[float, float]:
    """Scale and bias of the logits; ALIGN divides by its temperature instead."""
    if hasattr(module, "logit_scale"):
        scale = float(module.logit_scale.double().exp())
    elif hasattr(module, "temperature"):
        scale = 1 / float(module.temperature)
    else:
        raise ModelError(f"{folder}: {type(module).__name__} has neither logit_scale nor temperature")
    return scale, float(module.logit_bias) if hasattr(module, "logit_bias") else 0.0


@dataclass(frozen=True)
class Tokenizer:
    """Texts -> tokens (B, L) int64, padded and cut to the model's context length."""

    inner: Any
    length: int

    def __call__(self, texts: Sequence[str]) -> Tensor:
        options = {"padding": "max_length", "truncation": True, "max_length": self.length, "return_tensors": "pt"}
        tokens: Tensor = self.inner(list(texts), **options)["input_ids"]
        return tokens

    def longer(self, texts: Sequence[str], times: int) -> Tensor:
        """The same in a context that is `times` as long."""
        return replace(self, length=times * self.length)(texts)


def _tokenizer(folder: Path, config: Any) -> tuple[Tokenizer, int | None]:
    """The tokenizer, and the padding token's id where the text tower needs a mask over its padding.

    SigLIP was trained attending to its padding. Where padding and end of text share an id (CLIP) the tower is causal:
    what follows the end of the text cannot change the features.
    """
    from transformers import AutoTokenizer

    with guarded(folder, "no usable tokenizer; save the model's there"):
        check_tokenizer_class(folder)
        inner = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        length = min(int(inner.model_max_length), int(config.text_config.max_position_embeddings))
    attends_all = str(config.model_type).startswith("siglip") or inner.pad_token_id in (None, inner.eos_token_id)
    return Tokenizer(inner, length), None if attends_all else int(inner.pad_token_id)


def _encode_image(module: Any, pixels: Tensor) -> Tensor:
    return _pooled(module.get_image_features(pixel_values=pixels))


@dataclass(frozen=True)
class TextEncoder:
    """Tokens -> features, with the attention mask that `padding` (a token id) implies."""

    padding: int | None

    def __call__(self, module: Any, tokens: Tensor) -> Tensor:
        mask = None if self.padding is None else (tokens != self.padding).long()
        return _pooled(module.get_text_features(input_ids=tokens, attention_mask=mask))


def _pooled(output: Any) -> Tensor:
    """Features from what get_*_features gives: an output object since transformers 5, a tensor before."""
    features: Tensor = output.pooler_output if hasattr(output, "pooler_output") else output
    return features


def _token_mask(module: Any, padding: int | None) -> TokenMask | None:
    from benchmark.models.texts import NotPadding, UpToEnd

    if padding is not None:
        return NotPadding(padding)
    end = getattr(module.config.text_config, "eos_token_id", None)
    if str(module.config.model_type).startswith("siglip") or end is None:
        return None
    legacy = end == 2 and str(module.config.model_type) != "metaclip_2"
    return UpToEnd(None if legacy else int(end))  # old CLIP configurations say 2 and pool at the largest id


def _taps(module: Any, blocks: Sequence[str]) -> dict[str, Tap]:
    from benchmark.models import taps
    from benchmark.models.base import Tap

    classed = any(name.endswith("class_embedding") for name, _ in module.vision_model.named_parameters())
    pooling = taps.first_token if classed else taps.mean_map
    found = {f"block:{name}": Tap(name, "output", pooling) for name in blocks}
    if hasattr(module, "visual_projection"):
        found["penultimate"] = Tap("visual_projection", "input", taps.identity)
    else:
        found["penultimate"] = Tap("vision_model", "output", _pooler_output)
    return found


def _pooler_output(_: nn.Module, output: Any) -> Tensor:
    features: Tensor = output.pooler_output
    return features


def _probe(model: ClipModel, folder: Path) -> None:
    """Encode one black image and one word: the two towers must meet in one space."""
    import torch

    pixels = torch.zeros((1, 3, *model.preprocess.size), dtype=torch.uint8)
    try:
        image, text = model.encode_image(pixels), model.encode_text(["a"])
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelError(f"{folder}: does not encode a plain image and a text ({reason})") from error
    if image.dim() != 2 or image.shape != text.shape:
        shapes = f"{tuple(image.shape)} and {tuple(text.shape)}"
        raise ModelError(f"{folder}: image and text features differ in shape: {shapes}")
