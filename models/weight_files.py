"""Files of weights: what they contain, in whichever way the papers' authors wrapped it.

A downloaded file is untrusted input. Only tensors and plain data are read from it; whatever else it contains
is refused, never run. An error is one line.
"""

from __future__ import annotations

import argparse
import importlib
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

State = dict[str, Tensor]
"""A state dict."""

STATE_KEYS = (
    *("model", "state_dict", "model_state_dict", "net", "net_state_dict", "network", "student", "weights"),
    *("ema", "model_ema", "state_dict_ema", "ema_state_dict"),
)
"""Entries of a file that may hold a state dict, in the order in which they are tried.

Moving averages come last: they are read only from a file that has nothing else.
"""

SAFETENSORS = ".safetensors"

_RENAMING = ("module.", "_orig_mod.")
"""Prefixes of wrappers that rename every tensor: DataParallel and its relatives, torch.compile."""

_SELECTING = ("student.", "backbone.")
"""Prefixes of the network that was trained, in files that also contain other modules."""

_ATTRIBUTES = ("ema_model.", "model.", "net.", "network.")
"""Names under which trainers hold a network (Lightning: `model.`). No network here has such a module."""

_COUNTERS = {"n_averaged"}
"""Entries that wrappers add beside the network's tensors (torch's AveragedModel)."""


class WeightsError(ValueError):
    """A checkpoint cannot be read, or it does not fit the network."""


@dataclass(frozen=True)
class WeightFile:
    """The content of a file of weights."""

    path: Path

    states: tuple[tuple[str, State], ...]
    """The state dicts in it, with the name of the entry ("" for the file itself), the preferred one first.

    Their keys have no prefixes of wrappers any more.
    """

    content: Mapping[Any, Any]
    """All entries of the file."""

    def extra(self, entry: str) -> dict[str, Any]:
        """Return the plain data beside the state dict `entry`, such as epoch and accuracy."""
        if not entry:
            return {}
        rest = {str(key): plain(value) for key, value in self.content.items() if key != entry}
        return {key: value for key, value in rest.items() if value is not NOT_PLAIN}


def read_file(path: Path) -> WeightFile:
    """Read a file of weights. See `models.load_weights` for the formats.

    Raises `WeightsError` for a file that is missing, is damaged, contains code, or has no state dict.
    """
    content = _read(path)
    if not isinstance(content, Mapping):
        raise WeightsError(
            f"{path}: contains a {type(content).__name__}; expected a dict that contains a state dict"
        )
    states = [(key, content[key]) for key in STATE_KEYS if _is_state(content.get(key))]
    if not states and _is_state(content):
        states = [("", content)]
    if not states:  # under a name that is not known here, it is clear only if it is the only one
        others = [(key, value) for key, value in content.items() if _is_state(value)]
        states = others if len(others) == 1 and "teacher" not in str(others[0][0]) else []
    if not states:
        raise WeightsError(f"{path}: {_no_state(content)}")
    return WeightFile(
        path=path,
        states=tuple((str(key), form) for key, state in states for form in _forms(dict(state))),
        content=content,
    )


def _forms(state: State) -> list[State]:
    """Return the state dict without the names of wrappers.

    If a part of it looks like a network that a trainer holds, but may be a module of that name (`model.*` and
    `fc.*` in MobileNetV1), the whole follows.
    """
    inner, whole = without_wrappers(state), without_prefixes(state)
    return [inner] if len(inner) == len(whole) else [inner, whole]


def _is_state(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in value.items())
    )


def _no_state(content: Mapping[Any, Any]) -> str:
    """Say why the content of a file is not a state dict and contains none."""
    state_key = next((key for key in STATE_KEYS if isinstance(content.get(key), Mapping)), None)
    state = content if state_key is None else content[state_key]
    if not state:
        return "its state dict is empty; expected weights"
    key, value = next(
        (key, value)
        for key, value in state.items()
        if not isinstance(key, str) or not isinstance(value, Tensor)
    )
    where = f"its entry {state_key!r}" if state_key else "it has no entry model or state_dict, and"
    return f"{where} contains {key!r}: {type(value).__name__}; expected a state dict of tensors"


def without_prefixes(state: State) -> State:
    """Return the network's tensors, without the prefixes of wrappers and without other modules' tensors."""
    return _stripped(state, _SELECTING)


def without_wrappers(state: State) -> State:
    """`without_prefixes`, also without the names of attributes under which trainers hold a network."""
    return _stripped(state, (*_SELECTING, *_ATTRIBUTES))


def _stripped(state: State, selecting: tuple[str, ...]) -> State:
    # torch.compile of a part of the network puts its prefix in the middle
    state = {key.replace("._orig_mod.", "."): tensor for key, tensor in state.items()}
    while state:
        keys = state.keys() - _COUNTERS
        prefix = next((p for p in _RENAMING if keys and all(key.startswith(p) for key in keys)), None)
        if prefix is None:
            prefix = next((p for p in selecting if any(key.startswith(p) for key in keys)), None)
        if prefix is None:
            break
        state = {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
    return state


# --- reading ------------------------------------------------------------------------------------------------


def _safe_types() -> list[Any]:
    """Return types outside torch's list that published checkpoints contain and that cannot run code."""
    allowed: list[Any] = [argparse.Namespace, np.dtype, *{type(np.dtype(kind)) for kind in "?bhilqBHILQefd"}]
    # A file refers to numpy's function that makes scalars by module, and numpy 2 renamed that module.
    scalar = np.float64(0).__reduce__()[0]
    return allowed + [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]


def _read(path: Path) -> Any:
    try:
        if not path.is_file():
            raise WeightsError(
                f"{path}: {'not a file' if path.exists() else 'no such file'}; expected a checkpoint"
            )
        if path.stat().st_size == 0:
            raise WeightsError(f"{path}: the file is empty; expected a checkpoint")
        if path.suffix == SAFETENSORS:
            return _read_safetensors(path)
        with torch.serialization.safe_globals(_safe_types()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols and archive formats
            return torch.load(path, map_location="cpu", weights_only=True)
    except WeightsError:
        raise
    except Exception as error:  # a damaged file can make torch.load fail in any way
        text = " ".join(str(error).split())
        if code := re.search(r"GLOBAL ([\w.]+)", text):
            raise WeightsError(
                f"{path}: refused because it contains {code[1]}; expected only tensors and plain data"
            ) from None
        cause = text.partition("WeightsUnpickler error: ")[2] or text
        cause = f"{type(error).__name__}: {cause}"[:100].partition(". ")[0].rstrip(" .:")
        expected = "by safetensors" if path.suffix == SAFETENSORS else "by torch.save"
        raise WeightsError(
            f"{path}: damaged, or not a checkpoint ({cause}); expected a file written {expected}"
        ) from None


def _read_safetensors(path: Path) -> State:
    """Read a file in the format of safetensors, which is an optional dependency."""
    try:
        library: Any = importlib.import_module("safetensors.torch")
    except ImportError:
        raise WeightsError(
            f"{path}: expected the package safetensors, which reads this format; pip install safetensors"
        ) from None
    return library.load_file(path, device="cpu")


# --- plain data ---------------------------------------------------------------------------------------------

NOT_PLAIN = object()
"""What `plain` returns for a value that is not plain data."""


def plain(value: Any, keep_tensors: bool = False) -> Any:
    """Return `value` as plain data: None, bools, numbers, strings, and lists and dicts of them.

    keep_tensors: keep tensors, on the CPU. Without it, a tensor with one element becomes a number.

    Returns `NOT_PLAIN` if the value contains anything else.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Tensor):
        if keep_tensors:
            return value.detach().cpu()
        return value.item() if value.numel() == 1 else NOT_PLAIN
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        return plain(value.item())
    if isinstance(value, argparse.Namespace):
        value = vars(value)
    if isinstance(value, Mapping):
        if any(type(key) not in (bool, int, float, str) for key in value):
            return NOT_PLAIN
        entries = {key: plain(entry, keep_tensors) for key, entry in value.items()}
        return NOT_PLAIN if any(entry is NOT_PLAIN for entry in entries.values()) else entries
    if isinstance(value, (list, tuple)):
        items = [plain(item, keep_tensors) for item in value]
        return NOT_PLAIN if any(item is NOT_PLAIN for item in items) else items
    return NOT_PLAIN
