"""open_clip models: from an architecture, a weight file and a tokenizer to a ClipModel with plain Linears.

This module looks no names up and uses no network: `benchmark.models.resolve` has already found the files.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from benchmark.errors import ModelError
from benchmark.models.attention import unroll
from benchmark.models.base import ClipModel
from benchmark.models.checkpoint import fill, read_state
from benchmark.models.preprocess import Preprocess
from benchmark.models.structure import block_names
from benchmark.models.taps import open_clip_taps
from benchmark.models.texts import NotPadding, TokenMask, UpToEnd, encode_causal, shortened
from benchmark.models.untrusted import check_tokenizer_class, guarded
from benchmark.spec import Tower

if TYPE_CHECKING:
    from benchmark.models.references import Recipe

CLIP_TEXT = ("token_embedding", "positional_embedding", "transformer", "ln_final", "text_projection")
"""The text tower of open_clip's CLIP class, whose parts lie beside `visual`; other classes have a `text` module."""


CAPTION_DECODER = "text_decoder"
"""CoCa's."""

PLACEHOLDER = {"context_length": 1, "vocab_size": 1, "width": 1, "heads": 1, "layers": 1}
"""The smallest text tower, built where one of transformers takes its place."""


@dataclass(frozen=True)
class Source:
    """Where an open_clip model comes from; `weights` in open_clip's own layout."""

    name: str
    family: str
    digest: str
    recipe: Recipe
    preprocess: Preprocess
    weights: Path


def load(source: Source, device: str = "cpu", restore: Callable[[nn.Module], None] | None = None) -> ClipModel:
    """Build the architecture, fill it with the weights, rewrite its attention and return its ClipModel.

    Args:
        restore: fills the module, its attention already rewritten, instead of `source.weights`.

    Raises:
        ModelError: the architecture cannot be built, or the weights do not match it.
        NonFiniteError: a weight is NaN or infinite.
    """
    config = copy.deepcopy(dict(source.recipe.checked(source.name).architecture))
    tokenizer = _tokenizer(source, config["text_cfg"])
    module = _build(source, config)
    if restore is None:
        fill(module, _adapted(module, read_state(source.weights)), source.weights, unused=CAPTION_DECODER)
    module.eval().requires_grad_(False)
    if hasattr(module, CAPTION_DECODER):
        delattr(module, CAPTION_DECODER)  # encode_image and encode_text never run it
    unroll(module)
    if restore is not None:
        restore(module)
    with guarded(source.name, "its text tower is not understood"):
        towers, mask = _towers(module), _token_mask(module)
    return ClipModel(
        name=source.name,
        family=source.family,
        digest=source.digest,
        module=module.to(device),
        preprocess=source.preprocess,
        tokenizer=shortened(tokenizer, mask),
        image_encoder=_encode_image,
        text_encoder=encode_causal if isinstance(mask, UpToEnd) else _encode_text,
        towers=towers,
        blocks={tower: block_names(module, prefixes) for tower, prefixes in towers.items()},
        logit_scale=float(module.logit_scale.double().exp()),
        logit_bias=0.0 if module.logit_bias is None else float(module.logit_bias),
        token_mask=mask,
        taps=open_clip_taps(module, block_names(module, towers["vision"])),
    )


def _encode_image(module: Any, pixels: Tensor) -> Tensor:
    features: Tensor = module.encode_image(pixels, normalize=False)
    return features


def _encode_text(module: Any, tokens: Tensor) -> Tensor:
    features: Tensor = module.encode_text(tokens, normalize=False)
    return features


def _build(source: Source, config: dict[str, Any]) -> Any:
    """The module with random weights; open_clip's choice among its three classes, without any download."""
    from open_clip import CLIP, CoCa, CustomTextCLIP

    vision, text = config["vision_cfg"], config["text_cfg"]
    if vision.get("timm_model_name"):
        vision["timm_model_pretrained"] = False
    custom = config.pop("custom_text", False) or bool(text.get("hf_model_name"))
    kind = (CoCa if "multimodal_cfg" in config else CustomTextCLIP) if custom else CLIP
    with guarded(source.name, "this model_cfg cannot be built by open_clip"):
        if not text.get("hf_model_name"):
            return kind(**config)
        module: Any = kind(**config | {"text_cfg": PLACEHOLDER})
        module.text = _text_tower(source, text, config["embed_dim"])
        if kind is CustomTextCLIP:
            module.context_length, module.vocab_size = module.text.context_length, module.text.vocab_size
        return module


def _text_tower(source: Source, text: Mapping[str, Any], width: int) -> Any:
    """A transformers text tower with random weights, as open_clip's HFTextEncoder has it.

    open_clip itself would have transformers ask whether to run code of the folder: its calls do not forbid it.
    """
    from open_clip import CLIPTextCfg
    from open_clip.hf_model import HFTextEncoder
    from transformers import AutoConfig

    options = CLIPTextCfg(**text)
    folder = str(source.recipe.text_model)
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    pooler = options.hf_pooler_type
    tower = HFTextEncoder(
        folder, width, config, pooler, options.hf_proj_type, pretrained=False, output_tokens=options.output_tokens
    )
    if getattr(config, "is_encoder_decoder", False):
        tower.transformer = tower.transformer.encoder
    elif pooler != "cls_pooler":
        tower.transformer.pooler = None
    return tower


def _adapted(module: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict in today's layout: known older layouts renamed, scalars shaped as the module has them."""
    from open_clip.convert import convert_state_dict
    from open_clip.model import convert_to_custom_text_state_dict

    state = dict(convert_state_dict(module, state))
    if hasattr(module, "text"):
        state = dict(convert_to_custom_text_state_dict(state))
    own = module.state_dict()
    for name in ("logit_scale", "logit_bias"):
        if name in state and name in own and state[name].numel() == own[name].numel():
            state[name] = state[name].reshape(own[name].shape)
    for name in [name for name in state if name.endswith("embeddings.position_ids") and name not in own]:
        del state[name]  # a position buffer that older transformers saved
    return state


def _towers(module: nn.Module) -> dict[Tower, tuple[str, ...]]:
    return {"vision": ("visual",), "text": ("text",) if hasattr(module, "text") else CLIP_TEXT}


def _tokenizer(source: Source, text: Mapping[str, Any]) -> Callable[[Sequence[str]], Tensor]:
    """The model's own tokenizer with its context length."""
    from open_clip import SimpleTokenizer

    length, options = int(text.get("context_length", 77)), dict(text.get("tokenizer_kwargs") or {})
    if source.recipe.tokenizer is None:
        with guarded(source.name, "no usable tokenizer"):
            tokenizer = SimpleTokenizer(context_length=length, **options)
        vocabulary = int(text.get("vocab_size", 49408))
        if not text.get("hf_model_name") and tokenizer.vocab_size > vocabulary:
            raise ModelError(
                f"{source.name}: text_cfg.vocab_size {vocabulary} is smaller than the tokenizer's "
                f"{tokenizer.vocab_size}; name the model's own by text_cfg.hf_tokenizer_name"
            )
        return Tokenizer(tokenizer)
    return Tokenizer(_hub_tokenizer(source, text, length, options))


def _hub_tokenizer(source: Source, text: Mapping[str, Any], length: int, options: dict[str, Any]) -> Any:
    """A transformers tokenizer from its folder."""
    from open_clip.tokenizer import HFTokenizer

    folder, safely = str(source.recipe.tokenizer), {"local_files_only": True, "trust_remote_code": False}
    with guarded(folder, "no usable tokenizer"):
        check_tokenizer_class(Path(folder))
        mode = text.get("tokenizer_mode")
        return HFTokenizer(folder, context_length=length, tokenizer_mode=mode, **options, **safely)


@dataclass(frozen=True)
class Tokenizer:
    """Texts -> tokens (B, L) int64, by an open_clip tokenizer."""

    inner: Any

    def __call__(self, texts: Sequence[str]) -> Tensor:
        tokens: Tensor = self.inner(list(texts))
        return tokens

    def longer(self, texts: Sequence[str], times: int) -> Tensor:
        """The same in a context that is `times` as long."""
        tokens: Tensor = self.inner(list(texts), context_length=times * self.inner.context_length)
        return tokens


def _token_mask(module: Any) -> TokenMask | None:
    """Which text positions the pooled output depends on; None where all of them do (SigLIP attends its padding)."""
    text = getattr(module, "text", None)
    if text is not None and hasattr(text, "config"):  # a transformers text tower: padding is masked out
        return NotPadding(int(text.config.pad_token_id))
    if text is not None and getattr(text, "cls_emb", None) is not None:
        return NotPadding(text.pad_id, appended=True, correct=text.correct_cls_mask)
    causal = module.attn_mask if text is None else text.attn_mask
    pool = module.text_pool_type if text is None else text.pool_type
    if causal is None or pool not in ("argmax", "eos"):
        return None
    end = module.text_eos_id if text is None else text.eos_id
    return UpToEnd(end if pool == "eos" else None)
