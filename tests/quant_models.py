"""The toy model under the short names that the tests use."""

from benchmark.testing.models import make_calibration as calibration
from benchmark.testing.models import toy_model as toy
from benchmark.testing.models import with_outliers

__all__ = ["calibration", "toy", "with_outliers"]
