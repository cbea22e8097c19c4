"""Read one image file as RGB, whatever it is: greyscale, palette, CMYK and 16-bit images are converted."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff", ".gif"))
"""Files of other kinds in a folder of images are not looked at."""

KINDS = {
    "1": "greyscale",
    "L": "greyscale",
    "LA": "greyscale",
    "P": "palette",
    "PA": "palette",
    "CMYK": "CMYK",
    "RGBA": "with transparency",
    "RGBX": "with transparency",
    "RGBa": "with transparency",
    "YCbCr": "YCbCr",
    "LAB": "Lab",
    "HSV": "HSV",
}
"""What an image that is not RGB is called in messages, by Pillow's mode."""
SIXTEEN_BIT = "16-bit"


class BadImage(ValueError):
    """A file that is not a readable image. The message says why in a word or two."""


def read_rgb(content: bytes) -> tuple[Image.Image, str]:
    """Return the image of a file's content as RGB with 8 bits, and what it was if it was anything else.

    As in torchvision's loaders, transparency is dropped, an animation is its first picture, and a rotation
    noted in the file (EXIF) is ignored. 16-bit values keep their upper 8 bits.

    Raises `BadImage` for a file that is empty, no image, or broken.
    """
    if not content:
        raise BadImage("empty")
    try:
        image = Image.open(io.BytesIO(content))
    except Image.DecompressionBombError as error:
        raise BadImage("too many pixels") from error
    except Exception as error:  # Pillow raises UnidentifiedImageError, OSError, SyntaxError, struct.error ...
        raise BadImage("no image") from error
    try:
        with image:
            sixteen = image.mode.startswith("I") or _has_16_bits(image)
            image.load()
            if image.mode == "F":
                raise BadImage("of floating-point pixels")
            if image.mode.startswith("I"):
                return _upper_bits(image), SIXTEEN_BIT
            kind = (
                SIXTEEN_BIT if sixteen else KINDS.get(image.mode, "" if image.mode == "RGB" else image.mode)
            )
            return image if image.mode == "RGB" else image.convert("RGB"), kind
    except BadImage:
        raise
    except Exception as error:  # a broken file can raise almost anything
        raise BadImage("broken") from error


def _has_16_bits(image: Image.Image) -> bool:
    """Return whether the file of an image that is not loaded yet has 16 bits for each colour."""
    return any("16" in str(arguments) for *_, arguments in getattr(image, "tile", ()))


def _upper_bits(image: Image.Image) -> Image.Image:
    values: np.ndarray[Any, Any] = np.asarray(image).astype(np.int64)
    return Image.fromarray((values >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")


def resized(image: Image.Image, size: int) -> Image.Image:
    """Return an image whose shorter side has `size` pixels (bilinear, with antialiasing)."""
    width, height = image.size
    if min(width, height) == size:
        return image
    if width <= height:
        shape = size, max(size, int(size * height / width))
    else:
        shape = max(size, int(size * width / height)), size
    return image.resize(shape, Image.Resampling.BILINEAR)


def centre(image: Image.Image, size: int) -> Image.Image:
    """Return the middle of an image, `size` by `size` pixels, as torchvision's CenterCrop."""
    width, height = image.size
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def square(image: Image.Image, size: int, before: int = 0) -> np.ndarray[Any, Any]:
    """Return the middle of an image, resized, as uint8 `[size, size, 3]`.

    before: the shorter side before the crop; default `size`. 256 and 224 are ImageNet's test form.
    """
    return np.asarray(centre(resized(image, before or size), size))
