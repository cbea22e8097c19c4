"""Synthetic sound clips for tests, as wave files: rising tones, falling tones and bursts of noise."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

KINDS = ("falling", "noise", "rising")
RATE = 16_000


def sound(kind: str, seed: int, seconds: float = 0.5, rate: int = RATE) -> NDArray[np.float64]:
    """Samples `[n]` in -1..1. What tells rising from falling is the order of the frames alone."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    t = np.arange(round(seconds * rate)) / rate
    low, high = rng.uniform(300, 500), rng.uniform(2_000, 4_000)
    if kind == "noise":
        samples = rng.normal(size=len(t)) * (np.sin(2 * np.pi * rng.uniform(3, 9) * t) > 0)
    else:
        start, end = (low, high) if kind == "rising" else (high, low)
        samples = np.sin(2 * np.pi * (start * t + (end - start) * t**2 / (2 * seconds)))
    samples = samples + 0.01 * rng.normal(size=len(t))
    return samples / np.abs(samples).max() * rng.uniform(0.2, 0.9)


def write_wave(
    path: Path, samples: NDArray[np.float64], rate: int = RATE, width: int = 2, channels: int = 1
) -> None:
    """Samples in -1..1, the same in every channel, as PCM of `width` bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = np.clip(
        np.rint(samples * 2 ** (8 * width - 1)), -(2 ** (8 * width - 1)), 2 ** (8 * width - 1) - 1
    ).astype(np.int64)
    whole = np.repeat(whole + 128 * (width == 1), channels)
    with wave.open(str(path), "wb") as w:
        w.setnchannels(channels)
        w.setsampwidth(width)
        w.setframerate(rate)
        w.writeframes(whole[:, None].view(np.uint8).reshape(-1, 8)[:, :width].tobytes())


def write_clips(folder: Path, train: int = 16, test: int = 6, kinds: tuple[str, ...] = KINDS) -> Path:
    """`folder/clips/{train,test}/<kind>/*.wav`, so many of each kind. Returns `folder`."""
    for part, n, first in (("train", train, 0), ("test", test, 1_000)):
        for kind in kinds:
            for k in range(n):
                write_wave(folder / "clips" / part / kind / f"{k:03d}.wav", sound(kind, first + k))
    return folder
