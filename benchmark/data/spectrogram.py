"""A sound clip as an image: rows are frames, columns mel bands, channels the level and its two slopes.

    level[f, m]  power of frame f in band m, in dB relative to the clip's loudest, cut off at -80
    channel 0    level, -80..0 dB mapped to 0..255
    channel 1    delta: slope of the level over five frames, -24..24 dB per frame mapped to 0..255
                 (no slope is steeper)
    channel 2    delta-delta: slope of the delta, -12..12 mapped to 0..255

Static, delta and delta-delta features are common in speech recognition and audio tagging (Furui, IEEE TASSP
1986). Slopes are fitted by least squares; the first and the last frame are repeated.

Every clip becomes `FRAMES` frames of equal length, whatever its duration: its windows (Hann, 25 ms, every 10
ms) are divided into that many groups, and the powers of a group are averaged. Bands are triangles on the mel
scale, 2595 log10(1 + f / 700), from 50 to 8,000 Hz, so that clips of all sampling rates (16 kHz and more)
have the same bands. Levels are relative to the clip's loudest, so the gain of a recording does not matter.
"""

from __future__ import annotations

import functools
import math
import wave
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import InputError

Array = NDArray[np.float64]

FRAMES, BANDS = 32, 32

LOWEST_RATE = 16_000
"""Lowest sampling rate, in Hz."""

LOW_HZ, HIGH_HZ = 50.0, 8_000.0
WINDOW_SECONDS, HOP_SECONDS = 0.025, 0.010

SHORTEST_SECONDS = 0.35
"""Shortest clip: it has one window for each frame."""

FLOOR_DB = 80.0
"""Levels are cut off at this many dB below the loudest."""

DELTA_DB = (24.0, 12.0)
"""Largest slope per frame, in dB, of the delta and of the delta-delta."""


def read_wave(path: Path) -> tuple[Array, int]:
    """Read a PCM wave file of 8, 16, 24 or 32 bits. Return the samples `[n]` in -1..1 and the sampling rate.

    Channels are averaged. Raises `InputError` for another format, a damaged or truncated file, a rate below
    16 kHz, or a clip shorter than 0.35 s.
    """
    try:
        with path.open("rb") as f, wave.open(f) as w:
            channels, width, rate, n = w.getnchannels(), w.getsampwidth(), w.getframerate(), w.getnframes()
            raw = w.readframes(n)
    except (OSError, EOFError, wave.Error) as error:
        reason = str(error) or "it is incomplete"
        raise InputError(
            f"{path}: cannot be read ({reason}); it must be a PCM wave file of 8 to 32 bits"
        ) from error
    if width not in (1, 2, 3, 4):
        raise InputError(f"{path}: samples have {8 * width} bits; allowed: 8, 16, 24, 32")
    if len(raw) != n * channels * width:
        raise InputError(f"{path}: is truncated ({len(raw)} of {n * channels * width} bytes)")
    if rate < LOWEST_RATE:
        raise InputError(
            f"{path}: has {rate} samples per second; allowed: {LOWEST_RATE} and more "
            f"(bands go up to {HIGH_HZ:.0f} Hz)"
        )
    if n < SHORTEST_SECONDS * rate:
        raise InputError(f"{path}: lasts {n / rate:.2f} s; allowed: {SHORTEST_SECONDS} s and more")
    return _numbers(raw, width).reshape(n, channels).mean(axis=1), rate


def _numbers(raw: bytes, width: int) -> Array:
    """Convert little-endian integers of `width` bytes to -1..1. Integers of one byte are unsigned."""
    if width == 1:
        return np.frombuffer(raw, np.uint8) / 128.0 - 1.0
    if width == 3:  # numpy has no such type: the three bytes become the upper ones of four
        wide = np.zeros((len(raw) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(raw, np.uint8).reshape(-1, 3)
        return wide.view("<i4")[:, 0] / 2.0**31
    return np.frombuffer(raw, f"<i{width}") / 2.0 ** (8 * width - 1)


@functools.cache
def mel_bank(rate: int, points: int) -> Array:
    """Return the weights `[points / 2 + 1, BANDS]` from a power spectrum to bands.

    The weights of a band sum to 1. points: length of the Fourier transform.
    """
    lowest, highest = (2595 * math.log10(1 + f / 700) for f in (LOW_HZ, HIGH_HZ))
    mel = np.linspace(lowest, highest, BANDS + 2)
    edges = 700 * (10 ** (mel / 2595) - 1)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    hz = np.arange(points // 2 + 1)[:, None] * (rate / points)
    weights = np.clip(np.minimum((hz - low) / (centre - low), (high - hz) / (high - centre)), 0, None)
    return weights / weights.sum(axis=0)


def band_powers(samples: Array, rate: int) -> Array:
    """Return the power `[FRAMES, BANDS]` of samples `[n]`."""
    window, hop = round(WINDOW_SECONDS * rate), round(HOP_SECONDS * rate)
    # a power of two, at least twice the window: otherwise the lowest bands would fall between two bins
    points = 1 << (2 * window - 1).bit_length()
    windows = np.lib.stride_tricks.sliding_window_view(samples, window)[::hop]
    shape, bank = np.hanning(window + 1)[:-1], mel_bank(rate, points)
    # frame by frame, so that a clip of an hour takes no more memory than its samples need
    means = [
        (np.abs(np.fft.rfft(group * shape, points)) ** 2).mean(axis=0)
        for group in np.array_split(windows, FRAMES)
    ]
    return np.stack(means) @ bank


def slope(levels: Array) -> Array:
    """Return the slope of levels `[FRAMES, BANDS]` per frame, fitted over five frames.

    sum_n n (x[f + n] - x[f - n]) / (2 sum_n n^2), n = 1, 2.
    """
    x = np.pad(levels, ((2, 2), (0, 0)), mode="edge")
    return ((x[3:-1] - x[1:-3]) + 2 * (x[4:] - x[:-4])) / 10


def spectrogram(samples: Array, rate: int) -> NDArray[np.uint8]:
    """Return the image uint8 `[FRAMES, BANDS, 3]` of samples `[n]`. A silent clip is -80 dB everywhere."""
    power = band_powers(samples, rate)
    peak = power.max()
    level = np.full_like(power, -FLOOR_DB)
    if peak > 0:
        level = 10 * np.log10(np.maximum(power / peak, 10 ** (-FLOOR_DB / 10)))
    delta = slope(level)
    scaled = [1 + level / FLOOR_DB, 0.5 + delta / (2 * DELTA_DB[0]), 0.5 + slope(delta) / (2 * DELTA_DB[1])]
    return np.rint(255 * np.clip(np.stack(scaled, axis=2), 0, 1)).astype(np.uint8)
