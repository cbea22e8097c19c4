"""Seeds for the separate purposes of a run, derived from the run's seed, and the global generators."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


def seed_of(run_seed: int, *words: str | int) -> int:
    """Return a seed in 0..2^63-1 for one purpose of a run, for example `seed_of(0, "order", epoch)`.

    Seeds of different purposes are independent of each other.
    """
    text = "|".join(map(str, (run_seed, *words)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


# --- the global generators ----------------------------------------------------------------------------------
#
# `nn.Dropout`, `torch.rand(3)`, `random.random()` and `np.random.rand()` draw from generators that the whole
# process shares. Their state would make a run depend on what was computed before it. So the trainer seeds
# them before it calls a method.


def seed_global_generators(seed: int, device: torch.device) -> None:
    """Seed the global generators of PyTorch (of the CPU, and of `device` if it is a GPU), Python and NumPy.

    Costs ten microseconds. (`torch.manual_seed` costs ten times as much.) Within the capture of a CUDA graph,
    the generator of the GPU keeps its seed, which cannot be changed there.
    """
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    if device.type == "cuda" and not torch.cuda.is_current_stream_capturing():
        gpu_generator(device).manual_seed(seed)


def global_states() -> tuple[Any, ...]:
    """Return the states of the global generators on the CPU.

    They are equal if nothing was drawn in between.
    """
    numpy_state = np.random.get_state(legacy=False)
    assert isinstance(numpy_state, dict)
    inner = numpy_state["state"]
    numpy_values = (inner["key"].tobytes(), inner["pos"], numpy_state["has_gauss"])
    return torch.default_generator.get_state().numpy().tobytes(), random.getstate(), numpy_values


@contextlib.contextmanager
def global_generators_kept(device: torch.device) -> Iterator[None]:
    """Give the global generators their states of before the block back after it."""
    states = torch.default_generator.get_state(), random.getstate(), np.random.get_state()
    gpu = gpu_generator(device).get_state() if device.type == "cuda" else None
    try:
        yield
    finally:
        torch.default_generator.set_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])
        if gpu is not None:
            gpu_generator(device).set_state(gpu)


def gpu_generator(device: torch.device) -> torch.Generator:
    """Return the default generator of a GPU."""
    torch.cuda.init()
    return torch.cuda.default_generators[
        torch.cuda.current_device() if device.index is None else device.index
    ]
