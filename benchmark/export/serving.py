"""A served model: encoded images in, class probabilities out. MLflow loads it by this module's `_load_pyfunc`.

The table that goes in has one column `image` with one image a row: the bytes of a PNG or JPEG file, or of a NumPy
`.npy` file with a uint8 array (H, W, 3). (In JSON, MLflow's server takes bytes as base64.)
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmark.data.decode import LIMITS, check_size, decode, resize
from benchmark.engine.embed import embed_images
from benchmark.errors import DataError, ModelError
from benchmark.export.folder import CLASSES, read_config
from benchmark.metrics.scores import cosines, logits, softmax
from benchmark.models import resolve
from benchmark.models.checkpoint import read_state

if TYPE_CHECKING:
    import pandas as pd

    from benchmark.models.base import Preprocess

COLUMN = "image"
BATCH = 32
ROWS = 1024
"""Images in a request."""
SECONDS = 60.0
"""Time for the images of a request; nobody waits for what comes later."""
_NPY = b"\x93NUMPY"


class Predictor:
    """An exported folder with its classes.

    Raises:
        ModelError: the folder is damaged, or holds no classes.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        config = read_config(folder)
        if config.classes is None:
            raise ModelError(f"{folder} holds no classes; export it from a suite with a data set that has some")
        self.model = resolve(f"local-dir:{folder}").load(device)
        self.text: NDArray[np.float32] = read_state(folder / CLASSES)["text"].numpy()
        self.names = columns(config.classes.names)
        self.scale = config.tuned.scale if config.tuned else config.logit_scale
        self.bias = config.logit_bias

    def probabilities(self, images: Sequence[bytes]) -> NDArray[np.float64]:
        """Softmax of `scale * cos + bias`, (N, C), the scale refitted where it was: for N encoded images.

        Raises:
            DataError: an image cannot be decoded, or was not reached within SECONDS; names its row.
        """
        if not len(images):
            return np.zeros((0, len(self.names)))
        features = embed_images(self.model, self._batches(images, monotonic() + SECONDS), lambda _: None)["image"]
        return softmax(logits(cosines(features, self.text), self.scale, self.bias))

    def _batches(self, images: Sequence[bytes], end: float) -> Iterable[NDArray[np.uint8]]:
        for start in range(0, len(images), BATCH):
            rows = range(start, min(start + BATCH, len(images)))
            yield np.stack([self._pixels(images[row], row, end) for row in rows])

    def _pixels(self, encoded: object, row: int, end: float) -> NDArray[np.uint8]:
        """uint8 (3, H, W) as in an evaluation."""
        if monotonic() > end:
            raise DataError(f"row {row} was not reached in {SECONDS:g} seconds; send fewer or smaller images")
        try:
            image = read_image(encoded, self.model.preprocess)
        except DataError as error:
            raise DataError(f"column '{COLUMN}', row {row}: {error}") from None
        return np.asarray(resize(image, self.model.preprocess)).transpose(2, 0, 1)


def read_image(encoded: object, preprocess: Preprocess | None = None) -> Image.Image:
    """An RGB image from the bytes of an image file or of a `.npy` file.

    Args:
        preprocess: what the image will be resized for; None where it is not.

    Raises:
        DataError: neither can be read, or it is beyond `benchmark.data.decode.LIMITS`.
    """
    if not isinstance(encoded, bytes | bytearray | memoryview):
        raise DataError(f"expected the bytes of an image file, got {type(encoded).__name__}")
    content = bytes(encoded)
    if not content.startswith(_NPY):
        return decode(content, preprocess, LIMITS)
    return Image.fromarray(_array(content, preprocess))


def _array(content: bytes, preprocess: Preprocess | None) -> NDArray[np.uint8]:
    """The array of a `.npy` file, which is checked by its header: NumPy would first make room for what it claims."""
    stream = io.BytesIO(content)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        shape, fortran, kind = readers[np.lib.format.read_magic(stream)](stream)
    except Exception as error:  # NumPy documents none; a broken header makes it raise nearly any
        raise DataError(f"broken .npy file: {error}") from None
    if kind.hasobject:
        raise DataError("broken .npy file: it holds Python objects")
    if kind != np.uint8 or len(shape) != 3 or shape[2] != 3 or 0 in shape:
        raise DataError(f"expected a uint8 array (H, W, 3), got {kind} {shape}")
    check_size((shape[1], shape[0]), preprocess, LIMITS)
    values = np.frombuffer(content, np.uint8, offset=stream.tell())
    if len(values) != np.prod(shape):
        raise DataError(f"broken .npy file: {len(values)} bytes for an array {shape}")
    return values.reshape(shape, order="F" if fortran else "C")


def columns(names: Sequence[str]) -> tuple[str, ...]:
    """Class names as column names: one that stands several times is numbered.

    >>> columns(["crane", "cat", "crane"])
    ('crane', 'cat', 'crane (2)')
    """
    seen: Counter[str] = Counter()
    found = []
    for name in names:
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return tuple(found)


def example(size: tuple[int, int]) -> bytes:
    """A PNG file of that (height, width): a grey ramp."""
    ramp = np.linspace(0, 255, size[1]).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(np.broadcast_to(ramp, size)).convert("RGB").save(out, format="PNG")
    return out.getvalue()


class Served:
    """What MLflow's pyfunc flavour calls."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    def predict(self, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """A table with the column `image` -> one column of probabilities a class, one row an image.

        Raises:
            RequestError: the column is missing, there are more than ROWS images, or one cannot be decoded. It is a
                DataError, and what MLflow's server answers as a bad request, with one line and no stack trace.
        """
        import pandas as pd

        from benchmark.export.request_error import RequestError

        if COLUMN not in model_input:
            raise RequestError(f"the input has no column '{COLUMN}'; it has {', '.join(map(str, model_input))}"[:300])
        if len(model_input) > ROWS:
            raise RequestError(f"{len(model_input)} images, more than {ROWS} in a request; send them in parts")
        try:
            found = self.predictor.probabilities(list(model_input[COLUMN]))
        except DataError as error:
            raise RequestError(str(error)) from None
        return pd.DataFrame(found, columns=list(self.predictor.names), index=model_input.index)


def _load_pyfunc(path: str) -> Served:
    """MLflow's entry: `path` is the exported folder."""
    return Served(Predictor(Path(path)))
