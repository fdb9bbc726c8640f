"""Resume an image encoder in the middle: blocks that equal those of an earlier model, on the same pixels, do not run.

While the layers of a model are quantized one at a time, everything before the first changed block computes what it did
before. `Resuming` keeps the inputs of the blocks and begins there. What comes out is the same to the last bit; that is
checked on the first batch for every block it begins at, and where it is not so nothing is resumed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.models.fingerprint import tensor_checksum

Encoder = Callable[[nn.Module, Tensor], Tensor]
DONORS = 2
"""Models whose inputs of blocks are kept: the first two, full precision and the one with all layers quantized."""
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_PARTS = ("_parameters", "_buffers", "_modules")


@dataclass
class Resuming:
    """An image encoder that skips the blocks before the first one that differs from a model it has run before.

    Attributes:
        encoder: the encoder itself. blocks: names of the tower's blocks in forward order. tower: name prefixes.
        budget: bytes of inputs of blocks to keep.
        run, skipped: blocks times images that ran and that did not.
        exact: False once a resumed pass gave other features, or could not be done: then everything runs.
    """

    encoder: Encoder
    blocks: Sequence[str]
    tower: Sequence[str]
    budget: int
    run: int = 0
    skipped: int = 0
    exact: bool = True
    kept: dict[tuple[str, str], Tensor] = field(default_factory=dict, repr=False)
    _bytes: int = 0
    _donors: list[str] = field(default_factory=list, repr=False)
    _checked: set[int] = field(default_factory=set, repr=False)

    def __deepcopy__(self, _: object) -> Resuming:
        """Copies of a model share it."""
        return self

    def __call__(self, module: nn.Module, pixels: Tensor) -> Tensor:
        """Normalised pixels (B, 3, H, W) -> (B, D), as the encoder gives them."""
        if not self.exact or len(self.blocks) < 2 or _watched(module):
            return self.encoder(module, pixels)
        chain, picture = self._chain(module), hashlib.blake2b(pixels.detach().cpu().numpy().tobytes()).hexdigest()
        start = next((i for i in range(len(chain) - 1, 0, -1) if (chain[i], picture) in self.kept), 0)
        if start == 0:
            self.run += len(self.blocks) * len(pixels)
            return self._recorded(module, pixels, chain, picture)
        return self._resumed(module, pixels, start, self.kept[chain[start], picture])

    def _chain(self, module: nn.Module) -> list[str]:
        """For each block a digest of all that runs before it, and of what stands outside of the blocks."""
        outside = hashlib.blake2b()
        for name, child in module.named_modules():
            inside = any(name == block or name.startswith(block + ".") for block in self.blocks)
            if not inside and any(name == prefix or name.startswith(prefix + ".") for prefix in self.tower):
                outside.update(_content(name, child).encode())
        found = [outside.hexdigest()]
        for block in self.blocks[:-1]:
            link = hashlib.blake2b(found[-1].encode())
            for name, child in module.get_submodule(block).named_modules():
                link.update(_content(name, child).encode())
            found.append(link.hexdigest())
        return found

    def _recorded(self, module: nn.Module, pixels: Tensor, chain: Sequence[str], picture: str) -> Tensor:
        """A whole pass; the first models' inputs of blocks are kept while there is room."""
        if chain[-1] not in self._donors:
            if len(self._donors) >= DONORS:
                return self.encoder(module, pixels)
            self._donors.append(chain[-1])

        def keep(at: int) -> Callable[..., None]:
            def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
                size = args[0].numel() * args[0].element_size() if args and isinstance(args[0], Tensor) else 0
                if size and self._bytes + size <= self.budget:
                    self.kept[chain[at], picture] = args[0].detach().to("cpu", copy=True)
                    self._bytes += size

            return hook

        with ExitStack() as stack:
            for at in range(1, len(self.blocks)):
                handle = module.get_submodule(self.blocks[at]).register_forward_pre_hook(keep(at))
                stack.callback(handle.remove)
            return self.encoder(module, pixels)

    def _resumed(self, module: nn.Module, pixels: Tensor, start: int, given: Tensor) -> Tensor:
        """A pass that begins at a block; compared with a whole one where that has not been done for this block."""
        try:
            with _beginning_at(module, self.blocks, start, given):
                features = self.encoder(module, pixels)
        except (RuntimeError, TypeError, AttributeError, IndexError, ValueError):  # a tower that is no chain of blocks
            self.exact = False
            return self.encoder(module, pixels)
        if start not in self._checked:
            whole = self.encoder(module, pixels)
            self.exact = torch.equal(whole, features)
            self._checked.add(start)
            return whole
        self.run += (len(self.blocks) - start) * len(pixels)
        self.skipped += start * len(pixels)
        return features


@contextmanager
def _beginning_at(module: nn.Module, blocks: Sequence[str], start: int, given: Tensor) -> Iterator[None]:
    """Blocks before `start` hand on what they get; `start` gets `given`."""

    def replaced(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (given.to(args[0].device), *args[1:])

    early = [module.get_submodule(name) for name in blocks[:start]]
    handle = module.get_submodule(blocks[start]).register_forward_pre_hook(replaced)
    try:
        for block in early:
            block.forward = _handed_on
        yield
    finally:
        handle.remove()
        for block in early:
            vars(block).pop("forward", None)


def _handed_on(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return x


def _watched(module: nn.Module) -> bool:
    """Whether somebody looks into it, or a forward pass of one of its modules has been replaced."""
    return any("forward" in vars(m) or any(getattr(m, kind) for kind in _HOOKS) for m in module.modules())


def _content(name: str, module: nn.Module) -> str:
    """Type, settings and numbers of a module alone. What has no content to compare counts by its identity."""
    own = {key: value for key, value in vars(module).items() if key not in _PARTS and "hook" not in key}
    settings = [(k, repr(v) if _is_plain(v) else id(v)) for k, v in sorted(own.items()) if not _empty(v)]
    tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    numbers = [(key, tuple(v.shape), str(v.dtype), tensor_checksum(v)) for key, v in tensors]
    kind = type(module)
    return repr((name, kind.__module__, kind.__qualname__, settings, numbers))


def _empty(value: object) -> bool:
    return isinstance(value, set | dict) and not value


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float | str | tuple | list)
