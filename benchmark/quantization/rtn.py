r"""Round to nearest: each weight to the nearest code of its min-max range; the baseline.

.. math:: \hat W = s\,(\mathrm{clamp}(\mathrm{round}(W / s) + z) - z)

`s`, `z` from the minimum and maximum of each tensor, channel or group (`benchmark.quantization.affine`). Activations:
min-max of each token when the model runs, or min-max over the calibration data per tensor. Paper: Jacob et al.,
"Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR 2018
(arXiv 1712.05877); survey of the choices: Nagel et al., 2021 (arXiv 2106.08295).
"""

from __future__ import annotations

from benchmark.quantization.base import ACTIVATION_FIELDS, COMMON_FIELDS, WEIGHT_FIELDS
from benchmark.quantization.simulated import Simulated


class RoundToNearest(Simulated):
    """Min-max ranges everywhere."""


quantizer = RoundToNearest(
    name="rtn",
    version=1,
    title="round to nearest, min-max ranges",
    paper="Jacob et al. 2018, arXiv 1712.05877",
    fields=WEIGHT_FIELDS | ACTIVATION_FIELDS | COMMON_FIELDS,
)
