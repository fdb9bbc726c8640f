"""Images that start programs or eat the machine where nothing stops them; each is small."""

from __future__ import annotations

import functools
import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from tests import layouts


def png(width: int, height: int, *chunks: bytes) -> bytes:
    """A whole black 1-bit PNG of that size, with further chunks after its header."""
    packer = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    """A PNG chunk."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def claimed_png(width: int, height: int) -> bytes:
    """A PNG that claims a size in its header and holds next to nothing."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(10))) + chunk(b"IEND", b"")


def eps(marker: Path) -> bytes:
    """An EPS that writes a file where an interpreter runs it."""
    return (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n"
        + f"({marker}) (w) file (started) writestring\nshowpage\n%%EOF\n".encode()
    )


def text_bomb(kind: bytes) -> bytes:
    """A good small PNG with a compressed text or colour profile of 100 MB."""
    return png(16, 16, chunk(kind, b"a\0\0" + zlib.compress(bytes(100_000_000), 1)))


def gif_canvas(width: int = 65_535, height: int = 65_535) -> bytes:
    """A GIF of one pixel on a huge canvas."""
    out = bytearray(saved("GIF", (1, 1)))
    out[6:10] = struct.pack("<HH", width, height)
    return bytes(out)


def webp_canvas() -> bytes:
    """A WebP whose header claims 16,384 x 16,384."""
    bits = (16_383).to_bytes(3, "little")
    extended = b"VP8X" + struct.pack("<I", 10) + bytes(4) + bits + bits
    body = b"WEBP" + extended + saved("WEBP", (4, 4))[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


def many_scans(scans: int = 5_000) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    out = io.BytesIO()
    layouts.picture(1, (64, 64)).save(out, "JPEG", progressive=True)
    whole = out.getvalue()
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * scans + whole[-2:]


def tiff_tags(tags: int = 60_000, size: int = 60_000) -> bytes:
    """A TIFF whose tags all have their values in the same bytes: read one by one they are gigabytes."""
    entries = b"".join(struct.pack("<HHLL", 1000 + tag % 64_000, 1, size, 8) for tag in range(tags))
    return b"II*\0" + struct.pack("<L", 8 + size) + bytes(size) + struct.pack("<H", tags) + entries + bytes(4)


def ppm() -> bytes:
    """A good PPM."""
    return b"P6\n2 2\n255\n" + bytes(12)


def saved(kind: str, size: tuple[int, int]) -> bytes:
    """A good image as Pillow writes it."""
    out = io.BytesIO()
    layouts.picture(3, size).save(out, kind)
    return out.getvalue()


def two_frames(kind: str) -> bytes:
    """An animation or a multi-page file: first a grey, then a white frame."""
    out = io.BytesIO()
    first, second = (Image.fromarray(np.full((24, 24, 3), level, np.uint8)) for level in (96, 255))
    extra = {} if kind in ("TIFF", "GIF") else {"lossless": True} if kind == "WEBP" else {"quality": 100}
    first.save(out, kind, save_all=True, append_images=[second], **extra)
    return out.getvalue()


@functools.cache
def hostile(marker: Path = Path("never")) -> dict[str, bytes]:
    """What is tried, in words -> the file."""
    return {
        "EPS named .png": eps(marker),
        "PPM named .png": ppm(),
        "PDF named .png": b"%PDF-1.4\n" + bytes(100),
        "PNG of 400,000 x 1": png(400_000, 1),
        "PNG of 5,000,000 x 1": png(5_000_000, 1),
        "PNG of 1 x 5,000,000": png(1, 5_000_000),
        "PNG of 65,535 x 1": png(65_535, 1),
        "PNG that claims 60,000 x 60,000": claimed_png(60_000, 60_000),
        "PNG that claims 2147483647 x 2147483647": claimed_png(2**31 - 1, 2**31 - 1),
        "PNG with 100 MB of text": text_bomb(b"zTXt"),
        "PNG with a colour profile of 100 MB": text_bomb(b"iCCP"),
        "GIF of one pixel on 65,535 x 65,535": gif_canvas(),
        "WebP that claims 16,384 x 16,384": webp_canvas(),
        "JPEG of 5,000 scans": many_scans(),
        "TIFF with overlapping tags": tiff_tags(),
        "an empty file": b"",
    }
