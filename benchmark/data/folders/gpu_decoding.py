"""JPEG images decoded and cropped on the GPU by torchvision, where it can."""

from __future__ import annotations

import functools
import io
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmark.data.folders.reading import read_rgb
from models import import_torchvision

JPEG = b"\xff\xd8"
"""How the content of a JPEG file begins."""


def _functional() -> Any:
    import_torchvision()
    from torchvision.transforms.v2 import functional

    return functional


@functools.cache
def can_decode(device: torch.device) -> bool:
    """Return whether torchvision decodes JPEG images on a device. It is tried on a small one."""
    if device.type != "cuda":
        return False
    out = io.BytesIO()
    Image.fromarray(np.full((16, 24, 3), 128, dtype=np.uint8)).save(out, "JPEG")
    try:
        image = decode_jpeg([out.getvalue()], device)[0]
        same_size = image.shape == (3, 16, 24) and image.device.type == "cuda"
        return same_size and abs(float(image.float().mean()) - 128) < 4
    except Exception:  # without its codecs, torchvision raises ImportError, AttributeError, RuntimeError ...
        return False


def decode_jpeg(contents: list[bytes], device: torch.device) -> list[Tensor]:
    """Return JPEG files as RGB images on a device, uint8 `[3, H, W]` each. Raises what torchvision raises."""
    import_torchvision()
    from torchvision.io import ImageReadMode, decode_jpeg

    data = [torch.frombuffer(bytearray(content), dtype=torch.uint8) for content in contents]
    images: list[Tensor] = decode_jpeg(data, mode=ImageReadMode.RGB, device=device)
    return images


def decode(contents: list[bytes], device: torch.device) -> list[Tensor]:
    """Return image files as RGB images on a device, uint8 `[3, H, W]` each.

    Files that the GPU cannot decode are decoded by Pillow.
    """
    on_gpu = [k for k, content in enumerate(contents) if content[:2] == JPEG]
    images: list[Tensor | None] = [None] * len(contents)
    try:
        for k, image in zip(on_gpu, decode_jpeg([contents[k] for k in on_gpu], device), strict=True):
            images[k] = image
    except RuntimeError:  # one that it cannot: find out which
        for k in on_gpu:
            try:
                images[k] = decode_jpeg([contents[k]], device)[0]
            except RuntimeError:
                continue
    return [
        _by_pillow(content, device) if i is None else i for i, content in zip(images, contents, strict=True)
    ]


def _by_pillow(content: bytes, device: torch.device) -> Tensor:
    image, _ = read_rgb(content)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).to(device)


def resized_crop(image: Tensor, box: Any, size: int, flip: Any) -> Tensor:
    """Return a crop (top, left, height, width) of `[3, H, W]`, resized and mirrored: `[size, size, 3]`."""
    crop = _functional().resized_crop(image, *map(int, box), [size, size], antialias=True)
    return (crop.flip(2) if flip else crop).permute(1, 2, 0)


def square(image: Tensor, size: int, before: int) -> Tensor:
    """Return the test form of an image `[3, H, W]`, `[size, size, 3]`."""
    f = _functional()
    return f.center_crop(f.resize(image, [before], antialias=True), [size, size]).permute(1, 2, 0)
