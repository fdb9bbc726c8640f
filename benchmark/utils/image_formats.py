"""Image formats, recognised by the first bytes of a file whatever its name says."""

from __future__ import annotations

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
"""Pillow's names of the formats that are read, recognised by content; of several frames the first."""

UNREAD = (
    (0, b"8BPS", "PSD"),
    (0, b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (4, b"ftypheic", "HEIC"),
    (4, b"ftypheix", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (0, b"qoif", "QOI"),
    (0, b"DDS ", "DDS"),
    *((0, b"P" + digit + space, "PPM") for digit in (b"1", b"2", b"3", b"4", b"5", b"6") for space in (b"\n", b" ")),
)
"""Offset, magic bytes and name of image formats that are refused by name: leaving them out would shrink the data."""

IMAGE_SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"),
    *(".heic", ".heif", ".jp2", ".jxl", ".pbm", ".pgm", ".pnm", ".ppm"),
)
"""Suffixes (in any case) of files that are images without a look at their content, the unread formats among them."""

HEAD = 32
"""Bytes that tell a format."""

_MAGIC = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),
    (b"MM\x00+", "TIFF"),
)


def image_format(head: bytes) -> str | None:
    """Name of the image format that a file begins with, read or unread; None for anything else.

    Args:
        head: its first `HEAD` bytes.

    >>> image_format(b"GIF89a" + bytes(26)), image_format(b"BMW is a car and no bitmap")
    ('GIF', None)
    """
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:2] == b"BM" and head[6:10] == bytes(4):  # the reserved field: a text may begin with BM too
        return "BMP"
    if head[4:8] == b"ftyp" and (b"avif" in head[8:] or b"avis" in head[8:]):
        return "AVIF"
    found = next((name for magic, name in _MAGIC if head.startswith(magic)), None)
    return found or next((name for start, magic, name in UNREAD if head.startswith(magic, start)), None)
