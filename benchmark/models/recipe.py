"""What a model is built from beside its weights, and what one that is quantized already knows of itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from benchmark.errors import SpecError
from benchmark.models.identity import tokenizer_files
from benchmark.models.untrusted import check_config, check_open_clip, check_transformers
from benchmark.spec import QuantSpec

if TYPE_CHECKING:
    from benchmark.models.base import ClipModel
    from benchmark.models.references import ResolvedModel
    from benchmark.quantization import QuantizationReport


@dataclass(frozen=True)
class Recipe:
    """What a model is built from, beside its weights.

    Attributes:
        library: that holds its classes. architecture: its configuration there.
        tokenizer: folder of a transformers tokenizer; None for open_clip's own.
        text_model: folder with the `config.json` of a transformers text tower; None for a library's own.
    """

    library: Literal["open_clip", "transformers"]
    architecture: Mapping[str, Any]
    tokenizer: Path | None = None
    text_model: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """The files behind it."""
        tokenizer = tokenizer_files(self.tokenizer) if self.tokenizer else ()
        return (*tokenizer, *([self.text_model / "config.json"] if self.text_model else []))

    def checked(self, where: str) -> Recipe:
        """Itself, if nothing in its configurations leads to code.

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
    """What a model that is quantized already knows of itself.

    Attributes:
        quant: how it was quantized. base: digest of the full-precision model.
        load: (device, exact_float) -> the model, and the report of its quantization.
    """

    quant: QuantSpec
    base: str
    load: Callable[[str, bool], tuple[ClipModel, QuantizationReport]] = field(repr=False, compare=False)


def refuse_quantized(models: Iterable[ResolvedModel], purpose: str) -> None:
    """Refuse models that are quantized already.

    Args:
        purpose: what would quantize them again, e.g. `search`.

    Raises:
        SpecError: names the model and how it was quantized.
    """
    for model in models:
        if model.quantized is not None:
            raise SpecError(
                f"model {model.ref} is quantized already ({model.quantized.quant.name}) and cannot be quantized again "
                f"({purpose}); `reliquant run` evaluates it as it is, anything else needs the model it was made from"
            )
