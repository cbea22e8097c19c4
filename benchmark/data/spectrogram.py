"""A sound clip as an image: frames are rows, mel bands columns, and the channels are the spectrogram and its
two differences.

    level[f, m]  power of frame f in band m in dB below the clip's loudest one, cut at -80
    channel 0    level, -80..0 dB as 0..255
    channel 1    delta: slope of the level over five frames, -24..24 dB a frame (no slope is steeper) as
    0..255
    channel 2    delta-delta: the same of the delta, -12..12

static, delta and delta-delta are what speech and audio tagging call them (Furui, IEEE TASSP 1986); slopes are
fitted by least squares, ends repeated.

Every clip becomes `FRAMES` frames of equal length, whatever its own: its windows (Hann, 25 ms, every 10 ms)
are cut into so many runs and their powers averaged. Bands are triangles on the mel scale, 2595 log10(1 + f /
700), from 50 to 8,000 Hz, so that clips of other sampling rates (16 kHz and more) have the same. Levels
relative to the clip's own loudest make the recording's gain of no account.
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
LOW_HZ, HIGH_HZ = 50.0, 8_000.0
WINDOW_SECONDS, HOP_SECONDS = 0.025, 0.010
SHORTEST_SECONDS = 0.35
"""Of a clip: a window for each frame."""
FLOOR_DB = 80.0
DELTA_DB = (24.0, 12.0)


def read_wave(path: Path) -> tuple[Array, int]:
    """`(samples [n] in -1..1, sampling rate)` of a PCM wave file of 8, 16, 24 or 32 bits; channels are
    averaged.

    `InputError` for another format, a damaged or cut file, a rate below 16 kHz, or a clip shorter than 0.35
    s.
    """
    try:
        with path.open("rb") as f, wave.open(f) as w:
            channels, width, rate, n = w.getnchannels(), w.getsampwidth(), w.getframerate(), w.getnframes()
            raw = w.readframes(n)
    except (OSError, EOFError, wave.Error) as error:
        reason = str(error) or "it ends too early"
        raise InputError(
            f"{path}: cannot be read ({reason}); allowed: PCM wave files of 8 to 32 bits"
        ) from error
    if width not in (1, 2, 3, 4):
        raise InputError(f"{path}: has samples of {8 * width} bits; allowed: 8, 16, 24, 32")
    if len(raw) != n * channels * width:
        raise InputError(
            f"{path}: is cut off, {len(raw)} of {n * channels * width} bytes; allowed: a whole file"
        )
    if rate < LOWEST_RATE:
        raise InputError(
            f"{path}: has {rate} samples a second; allowed: {LOWEST_RATE} and more (bands go up to {HIGH_HZ:.0f} Hz)"
        )
    if n < SHORTEST_SECONDS * rate:
        raise InputError(f"{path}: lasts {n / rate:.2f} s; allowed: {SHORTEST_SECONDS} s and more")
    return _numbers(raw, width).reshape(n, channels).mean(axis=1), rate


def _numbers(raw: bytes, width: int) -> Array:
    """Little-endian integers of `width` bytes -> -1..1. Those of one byte are unsigned."""
    if width == 1:
        return np.frombuffer(raw, np.uint8) / 128.0 - 1.0
    if width == 3:  # no such type: the three bytes become the upper ones of four
        wide = np.zeros((len(raw) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(raw, np.uint8).reshape(-1, 3)
        return wide.view("<i4")[:, 0] / 2.0**31
    return np.frombuffer(raw, f"<i{width}") / 2.0 ** (8 * width - 1)


@functools.cache
def mel_bank(rate: int, points: int) -> Array:
    """`[points / 2 + 1, BANDS]`: weights that bring the power spectrum of a transform of `points` to bands;
    each band's sum to 1."""
    lowest, highest = (2595 * math.log10(1 + f / 700) for f in (LOW_HZ, HIGH_HZ))
    mel = np.linspace(lowest, highest, BANDS + 2)
    edges = 700 * (10 ** (mel / 2595) - 1)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    hz = np.arange(points // 2 + 1)[:, None] * (rate / points)
    weights = np.clip(np.minimum((hz - low) / (centre - low), (high - hz) / (high - centre)), 0, None)
    return weights / weights.sum(axis=0)


def band_powers(samples: Array, rate: int) -> Array:
    """Samples `[n]` -> power `[FRAMES, BANDS]`."""
    window, hop = round(WINDOW_SECONDS * rate), round(HOP_SECONDS * rate)
    points = (
        1 << (2 * window - 1).bit_length()
    )  # twice the window and more, or the lowest bands would lie between two bins
    windows = np.lib.stride_tricks.sliding_window_view(samples, window)[::hop]
    shape, bank = np.hanning(window + 1)[:-1], mel_bank(rate, points)
    # frame by frame, so that a clip of an hour takes no more memory than its samples need
    means = [
        (np.abs(np.fft.rfft(run * shape, points)) ** 2).mean(axis=0)
        for run in np.array_split(windows, FRAMES)
    ]
    return np.stack(means) @ bank


def slope(levels: Array) -> Array:
    """`[FRAMES, BANDS]` -> change a frame: sum_n n (x[f + n] - x[f - n]) / (2 sum_n n^2), n = 1, 2."""
    x = np.pad(levels, ((2, 2), (0, 0)), mode="edge")
    return ((x[3:-1] - x[1:-3]) + 2 * (x[4:] - x[:-4])) / 10


def spectrogram(samples: Array, rate: int) -> NDArray[np.uint8]:
    """Samples `[n]` -> uint8 `[FRAMES, BANDS, 3]`. A silent clip is at -80 dB throughout."""
    power = band_powers(samples, rate)
    peak = power.max()
    level = np.full_like(power, -FLOOR_DB)
    if peak > 0:
        level = 10 * np.log10(np.maximum(power / peak, 10 ** (-FLOOR_DB / 10)))
    delta = slope(level)
    scaled = [1 + level / FLOOR_DB, 0.5 + delta / (2 * DELTA_DB[0]), 0.5 + slope(delta) / (2 * DELTA_DB[1])]
    return np.rint(255 * np.clip(np.stack(scaled, axis=2), 0, 1)).astype(np.uint8)
