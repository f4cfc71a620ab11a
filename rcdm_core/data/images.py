"""One file to one square RGB picture: what every kind of image file means, cropping or padding, and resizing.

A picture is always brought to its size from the original file (never from another size), with antialiasing.
"""

from __future__ import annotations

import hashlib
import io
import os
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps

from rcdm_core.errors import RCDMError, UnreadableImage, first_line

if TYPE_CHECKING:
    import torch

FITS = ("crop", "pad")
# How a picture is resized; always antialiased. An encoder expects what it was trained with.
INTERPOLATIONS = ("bicubic", "bilinear", "lanczos", "nearest")
DEFAULT_INTERPOLATION = "bicubic"

WHITE = (255, 255, 255)

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_METADATA = (b"tEXt", b"zTXt", b"iTXt", b"tIME", b"pHYs")
_READ_AT_ONCE = 1 << 20

# A JPEG is decoded at a half, a quarter or an eighth when that leaves at least this many pixels for each one wanted,
# and plain averages come first in a reduction by more than this: the result is hardly different from the direct one.
_REDUCING_GAP = 3.0

# Pillow warns about a decompression bomb and goes on; the filter that turns the warning into an error is one for the
# whole process, so only one thread at a time may have it set.
_warnings_lock = threading.Lock()


def open_image(source: Path | str | bytes | Image.Image) -> Image.Image:
    """Decode a picture completely: an RGB PIL image of its full size, upright, on white.

    Transparency (an alpha channel, or a transparent colour) is flattened on white; 16 bits are scaled to 8;
    palettes, CMYK and bilevel pictures are converted; the EXIF orientation is applied; of an animation or a document
    with several pages the first is taken.

    Args:
        source: a file, the bytes of one, or a PIL image.

    Raises:
        UnreadableImage: not an image, truncated, empty, larger than Pillow's decompression-bomb limit, or of a kind
            whose values have no defined white (32-bit integers, floating point).
    """
    return _decode(source, None, "crop")


def read_array(
    source: Path | str | bytes | Image.Image,
    size: int,
    fit: str = "crop",
    interpolation: str = DEFAULT_INTERPOLATION,
) -> np.ndarray:
    """Read a picture at a size: uint8 `[3, size, size]`, RGB. The same as `fit_image` of `open_image(source)` up to
    rounding, but large JPEGs are not decoded in full.

    Raises:
        UnreadableImage: as `open_image`.
        RCDMError: `fit` is neither "crop" nor "pad".
    """
    return fit_image(_decode(source, size, fit), size, fit, interpolation)


def read_image(source: Path | str | bytes | Image.Image, size: int, fit: str = "crop") -> torch.Tensor:
    """Read a picture at a size: float32 tensor `[3, size, size]`, RGB in [0, 1]. Raises as `read_array`."""
    import torch

    return torch.from_numpy(read_array(source, size, fit)).float() / 255


def fit_image(
    image: Image.Image, size: int, fit: str = "crop", interpolation: str = DEFAULT_INTERPOLATION
) -> np.ndarray:
    """Make a picture square and bring it to a size: uint8 `[3, size, size]`, RGB.

    Args:
        image: an RGB image as `open_image` returns it.
        size: side of the result, in pixels.
        fit: "crop" cuts the centre square out, "pad" adds white on the shorter sides.
        interpolation: one of INTERPOLATIONS.

    Raises:
        RCDMError: `fit` is neither of them.
    """
    width, height = image.size
    if check_fit(fit) == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        square = _resize(image.crop((left, top, left + side, top + side)), size, size, interpolation)
    else:
        # Padding after the longer side has been resized gives the same as before, since rows and columns are resized
        # apart, and a strip of one by many thousand pixels does not become a square of many thousand.
        side = max(width, height)
        if width >= height:
            flat = _resize(image, size, height, interpolation)
            padded = Image.new("RGB", (size, side), WHITE)
            padded.paste(flat, (0, (side - height) // 2))
        else:
            flat = _resize(image, width, size, interpolation)
            padded = Image.new("RGB", (side, size), WHITE)
            padded.paste(flat, ((side - width) // 2, 0))
        square = _resize(padded, size, size, interpolation)
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


def check_fit(fit: str) -> str:
    """`fit` itself. Raises RCDMError unless it is "crop" or "pad"."""
    if fit not in FITS:
        raise RCDMError(f"{fit!r} is no way to make a picture square: --fit is one of {' and '.join(FITS)}.")
    return fit


def content_hash(path: Path | str) -> str:
    """The content id of a file: the sha256 of its bytes, 64 hexadecimal digits.

    Those chunks of a PNG that do not touch the pixels (texts, time, physical size) are left out: the same picture saved
    again under another title has the same id, and so never is in the training and in the held-out part at once.

    Raises:
        OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        start = file.read(len(_PNG_SIGNATURE))
        digest.update(start)
        if start == _PNG_SIGNATURE:
            while len(header := file.read(8)) == 8:
                rest = int.from_bytes(header[:4], "big") + 4  # the data and its checksum
                if header[4:] in _PNG_METADATA:
                    file.seek(rest, os.SEEK_CUR)
                else:
                    digest.update(header)
                    _digest_bytes(file, digest, rest)
            digest.update(header)
        else:
            _digest_bytes(file, digest, None)
    return digest.hexdigest()


def _digest_bytes(file: BinaryIO, digest: hashlib._Hash, count: int | None) -> None:
    """Feed the next `count` bytes, or all that are left, to the digest."""
    while block := file.read(_READ_AT_ONCE if count is None else min(_READ_AT_ONCE, count)):
        digest.update(block)
        if count is not None:
            count -= len(block)


def _resize(image: Image.Image, width: int, height: int, interpolation: str) -> Image.Image:
    filter = Image.Resampling[interpolation.upper()]
    return image.resize((width, height), filter, reducing_gap=_REDUCING_GAP)


def _decode(source: Path | str | bytes | Image.Image, size: int | None, fit: str) -> Image.Image:
    """The RGB picture, in full where `size` is None, else with enough pixels for that size."""
    try:
        if isinstance(source, Image.Image):
            return _to_rgb(source)
        with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
            # Waiting for the disk or the network happens here and not under the lock of `_open`.
            if not file.read(1):
                raise UnreadableImage("it is empty")
            file.seek(0)
            with _open(file) as image:
                if size is not None:
                    _draft(image, size, fit)
                return _to_rgb(image)
    except UnreadableImage:
        raise
    except Image.DecompressionBombError:
        raise UnreadableImage(_too_large()) from None
    except Image.UnidentifiedImageError:
        raise UnreadableImage("it is not an image that Pillow knows") from None
    except OSError as error:
        # Pillow's own errors about the data have no errno, the system's have.
        raise UnreadableImage(error.strerror or str(error)) from None
    except Exception as error:
        # Decoders meet damaged data in the middle of their work and raise whatever that leads to.
        raise UnreadableImage(f"it cannot be decoded ({first_line(error)})") from error


def _open(file: BinaryIO) -> Image.Image:
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            return Image.open(file)
        except Image.DecompressionBombWarning:
            raise UnreadableImage(_too_large()) from None


def _too_large() -> str:
    return f"it has more than {Image.MAX_IMAGE_PIXELS} pixels, Pillow's limit against decompression bombs"


def _draft(image: Image.Image, size: int, fit: str) -> None:
    """Have a JPEG decoded at a fraction of its size where enough is left. Other formats ignore it."""
    width, height = image.size
    side = min(width, height) if fit == "crop" else max(width, height)
    for scale in (8, 4, 2):
        # Twice the scale, so that the margin that is cut off or added is a whole number of pixels after it as well.
        whole = width % (2 * scale) == 0 and height % (2 * scale) == 0
        if whole and side >= _REDUCING_GAP * size * scale:
            image.draft(None, (width // scale, height // scale))
            return


def _to_rgb(image: Image.Image) -> Image.Image:
    if 0 in image.size:
        raise UnreadableImage("it has no pixels")
    transparent = _of_16_bit_colour(image)
    image.load()
    if transparent is not None:
        image = image.copy()
        image.putalpha(transparent)
    image = _upright(image)
    if image.mode.startswith("I"):
        image = _gray_to_8_bits(image)
    if image.mode == "F":
        raise UnreadableImage("its pixels are floating-point numbers, which have no defined white")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        flat = Image.new("RGB", rgba.size, WHITE)
        flat.paste(rgba, mask=rgba.getchannel("A"))
        return flat
    return image if image.mode == "RGB" else image.convert("RGB")


def _of_16_bit_colour(image: Image.Image) -> Image.Image | None:
    """The alpha (L) of a 16-bit RGB PNG with a transparent colour that is not loaded yet; None for all others.

    Pillow keeps the high byte of each value and compares it with all 16 bits of the colour, so that nothing is
    transparent. Its unpacker of the other byte order gives the low bytes of the same file, and the values are whole.
    """
    colour, tiles = image.info.get("transparency"), getattr(image, "tile", [])
    if image.format != "PNG" or len(tiles) != 1 or tiles[0][3] != "RGB;16B" or colour is None:
        return None
    halves = []
    for unpacker in ("RGB;16B", "RGB;16L"):
        image.fp.seek(0)  # type: ignore[attr-defined]
        again = Image.open(image.fp)  # type: ignore[attr-defined]
        # A named tuple, or in older releases a plain one.
        again.tile = [getattr(tiles[0], "_make", tuple)((*tiles[0][:3], unpacker))]  # type: ignore[list-item]
        halves.append(np.asarray(again).astype(np.uint16))
    values = halves[0] * np.uint16(256) + halves[1]
    opaque = (values != np.array(colour, np.uint16)).any(-1)
    return Image.fromarray(np.where(opaque, 255, 0).astype(np.uint8))


def _upright(image: Image.Image) -> Image.Image:
    try:
        turned = ImageOps.exif_transpose(image) if image.getexif().get(ExifTags.Base.Orientation, 1) != 1 else image
    except Exception:
        # Damaged EXIF data says nothing about the orientation, and the pixels are fine.
        return image
    return turned


def _gray_to_8_bits(image: Image.Image) -> Image.Image:
    """16-bit gray to L, or to LA where a gray value is declared transparent."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise UnreadableImage("its pixels are 32-bit integers, which have no defined white")
    gray = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    transparent = image.info.get("transparency")
    if transparent is not None:
        gray.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return gray
