"""Quantized Linear and Conv2d on float arithmetic: the weight is quantized once, the input at each call."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.quantization.activation import TokenQuantizer


class QuantizedLinear(nn.Module):
    """A Linear whose weight is the dequantized one and whose input may be transformed and quantized.

    Args:
        layer: the Linear it replaces (for shape and bias).
        weight: dequantized (out, in) float32.
        activation: quantizer of the input, or None.
        transform: applied to the input first (a scale, a rotation), or None.
    """

    weight: Tensor

    def __init__(
        self,
        layer: nn.Linear | nn.Conv2d,
        weight: Tensor,
        activation: TokenQuantizer | None = None,
        transform: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight.to(layer.weight.dtype).reshape(layer.weight.shape))
        self.bias = layer.bias
        self.activation, self.transform = activation, transform

    def prepared(self, x: Tensor) -> Tensor:
        """The input after transformation and quantization."""
        if self.transform is not None:
            x = self.transform(x)
        return x if self.activation is None else self.activation(x)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) -> (..., out)."""
        return F.linear(self.prepared(x), self.weight, self.bias)


class QuantizedConv2d(QuantizedLinear):
    """The same for a Conv2d with zero padding."""

    def __init__(
        self,
        layer: nn.Conv2d,
        weight: Tensor,
        activation: TokenQuantizer | None = None,
        transform: nn.Module | None = None,
    ) -> None:
        super().__init__(layer, weight, activation, transform)
        self.stride, self.padding, self.dilation, self.groups = _geometry(layer)
        self.padding_mode, self.edges = layer.padding_mode, list(layer._reversed_padding_repeated_twice)
        if self.padding_mode != "zeros":
            self.padding = (0, 0)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) -> (B, O, H', W')."""
        x = self.prepared(x)
        if self.padding_mode != "zeros":
            x = F.pad(x, self.edges, mode=self.padding_mode)
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


def _geometry(
    layer: nn.Conv2d,
) -> tuple[tuple[int, ...], tuple[int, ...] | str, tuple[int, ...], int]:
    return layer.stride, layer.padding, layer.dilation, layer.groups


def simulated_layer(
    layer: nn.Linear | nn.Conv2d,
    weight: Tensor,
    activation: TokenQuantizer | None = None,
    transform: nn.Module | None = None,
) -> QuantizedLinear:
    """The float-simulated replacement of a layer."""
    kind = QuantizedConv2d if isinstance(layer, nn.Conv2d) else QuantizedLinear
    return kind(layer, weight, activation, transform).to(layer.weight.device)  # type: ignore[arg-type]


class Transform(nn.Module):
    """An invertible linear map of a layer's input, applied when the model runs.

    The layer's weight is made for the transformed input.
    """

    @property
    def packed_bits(self) -> int:
        """Bits that it adds to the stored layer."""
        return sum(32 * value.numel() for value in self.state_dict().values())

    def undo(self, weight: Tensor) -> Tensor:
        """The weight (O, K) that does to the plain input what `weight` does to the transformed one."""
        raise NotImplementedError


class Scaled(Transform):
    """Multiplies the input features by a vector: the online part of a diagonal input transformation."""

    factor: Tensor

    def __init__(self, factor: Tensor) -> None:
        super().__init__()
        self.register_buffer("factor", factor.float())

    def forward(self, x: Tensor) -> Tensor:
        """x (..., K) times factor (K,)."""
        return x * self.factor

    def undo(self, weight: Tensor) -> Tensor:
        """Each column times its factor."""
        return weight * self.factor


class Flattened(nn.Module):
    """Flattens inputs to rows for a library's Linear, since libraries accept different numbers of dimensions."""

    def __init__(self, inner: nn.Module, dense: Tensor) -> None:
        super().__init__()
        self.inner, self.shape, self._like = inner, tuple(dense.shape), dense.new_zeros(())

    @property
    def weight(self) -> Tensor:
        """Stands in for the weight's shape, dtype and device, for code that asks for them."""
        return self._like.expand(self.shape)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) -> (..., out), float32."""
        rows = self.inner(x.reshape(-1, x.shape[-1]))
        return rows.reshape(*x.shape[:-1], -1).to(x.dtype)  # type: ignore[no-any-return]
