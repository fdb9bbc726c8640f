"""Names of the corruptions, in a module of their own so that looking them up imports nothing heavy."""

COMMON: tuple[str, ...] = (
    "gaussian_noise", "shot_noise", "impulse_noise",
    "defocus_blur", "glass_blur", "motion_blur", "zoom_blur",
    "snow", "frost", "fog", "brightness",
    "contrast", "elastic_transform", "pixelate", "jpeg_compression",
)  # fmt: skip
"""The 15 types of ImageNet-C in the order of the paper: noise, blur, weather, digital."""

EXTRA: tuple[str, ...] = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
"""The four validation types."""

SEVERITIES = (1, 2, 3, 4, 5)

GENERATOR_VERSION = 1
"""Raise it when a generated corruption changes: part of every digest of generated data."""
