"""Checkpoints: read those that the papers' authors published, write new ones, and hash weights.

A downloaded file is untrusted input. Only tensors and plain data are read from it, and everything is
checked before any weight of the network changes. An error is one line.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import re
import secrets
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.network import Network

State = dict[str, Tensor]
"""A state dict."""

STATE_KEYS = ("model", "state_dict")
"""Entries of a file that may hold its state dict."""


class WeightsError(ValueError):
    """A checkpoint cannot be read, or it does not fit the network."""


def load_weights(net: Network, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Load a checkpoint into `net`. Return the other plain data of the file, such as epoch and accuracy.

    Known formats: a state dict under `model` or `state_dict`, or the file itself; keys with the prefix
    `module.`; mdistiller's `module.student.*` next to the teacher; SSKD's `backbone.*` next to its head;
    SSKD's spelling of MobileNetV2's classifier. Of the other data, namespaces are returned as dicts, numpy
    scalars and one-element tensors as numbers; an entry with anything else (the state of an optimizer) is
    left out.

    Raises `WeightsError` for a file that is missing, is damaged, contains code, or does not fit. Then `net`
    is unchanged.
    """
    path = Path(path)
    content = _read(path)
    state, rest = _split(path, content)
    state = {net.canonical_key(key): tensor for key, tensor in _without_prefixes(state).items()}
    target = net.state_dict(keep_vars=True)
    _check(path, net, target, state)
    with torch.no_grad():
        for key, tensor in state.items():
            target[key].copy_(tensor)
    extra = {key: _plain(value) for key, value in rest.items()}
    return {key: value for key, value in extra.items() if value is not _NOT_PLAIN}


def save_weights(net: nn.Module, path: str | os.PathLike[str], **extra: Any) -> None:
    """Write `{"model": state dict, **extra}` atomically. Floating point tensors are stored in fp32.

    extra: plain data or tensors, which may be nested. Namespaces are written as dicts, numpy scalars as
        numbers.

    Missing folders are created. Raises `TypeError` for an extra entry that is named `model` or contains
    other data, and `OSError` if the file cannot be written; an older file stays intact then.
    """
    if "model" in extra:
        raise TypeError(
            "an extra entry cannot be named 'model', which holds the weights; give it another name"
        )
    plain = {key: _plain(value, keep_tensors=True) for key, value in extra.items()}
    for key, value in plain.items():
        if value is _NOT_PLAIN:
            raise TypeError(
                f"extra entry {key!r} must contain only plain data and tensors, but is {extra[key]!r:.80}"
            )
    state = {key: _as_saved(tensor) for key, tensor in net.state_dict().items()}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    buffer = io.BytesIO()  # written to a full disk directly, torch.save would raise no clear error
    torch.save({"model": state, **plain}, buffer)
    try:
        with temporary.open("xb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.filename is None and error.strerror is not None:  # the error of a full disk names no file
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def weights_hash(weights: nn.Module | Mapping[str, Tensor]) -> str:
    """Return a hash of weights: 16 hex digits, equal for a network, its state dict and any file format.

    It is the sha256 of name, shape and fp32 bytes of every floating point tensor, sorted by name. It does
    not depend on prefixes, nor on `num_batches_tracked`, which old files lack and which changes no result.
    """
    state = dict(weights.state_dict() if isinstance(weights, nn.Module) else weights)
    named = {
        key.replace("classifier.0.", "classifier."): tensor
        for key, tensor in _without_prefixes(state).items()
    }
    digest = hashlib.sha256()
    for key in sorted(named):
        if named[key].is_floating_point():
            tensor = _as_saved(named[key])
            digest.update(f"{key} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _as_saved(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.is_floating_point() else tensor).contiguous()


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
        raise WeightsError(
            f"{path}: damaged, or not a checkpoint ({cause}); expected a file written by torch.save"
        ) from None


def _split(path: Path, content: Any) -> tuple[State, dict[str, Any]]:
    """Return the state dict of a file, and its other entries."""
    if not isinstance(content, Mapping):
        raise WeightsError(
            f"{path}: contains a {type(content).__name__}; expected a dict that contains a state dict"
        )
    state_key = next((key for key in STATE_KEYS if isinstance(content.get(key), Mapping)), None)
    state = content if state_key is None else content[state_key]
    rest = {str(key): value for key, value in content.items() if key != state_key} if state_key else {}
    if not state:
        raise WeightsError(f"{path}: its state dict is empty; expected weights")
    for key, tensor in state.items():
        if not isinstance(key, str) or not isinstance(tensor, Tensor):
            where = f"its entry {state_key!r}" if state_key else "it has no entry model or state_dict, and"
            entry = f"{where} contains {key!r}: {type(tensor).__name__}"
            raise WeightsError(f"{path}: {entry}; expected a state dict of tensors")
    return dict(state), rest


def _without_prefixes(state: State) -> State:
    """Return the network's tensors, without the prefixes of wrappers and without other modules' tensors."""
    while True:
        if all(key.startswith("module.") for key in state):
            prefix = "module."
        else:
            prefix = next(
                (p for p in ("student.", "backbone.") if any(key.startswith(p) for key in state)), ""
            )
        if not prefix or not state:
            return state
        state = {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}


def _check(path: Path, net: Network, target: Mapping[str, Tensor], state: State) -> None:
    """Raise `WeightsError` unless `state` can be copied into `target`, tensor by tensor."""
    expected = f"expected {net.name or type(net).__name__} with {net.linear_head().out_features} classes"
    missing = [key for key in target if key not in state and not key.endswith("num_batches_tracked")]
    unknown = [key for key in state if key not in target]
    if missing or unknown:
        parts = [f"lacks {missing[0]} ({len(missing)} missing)"] if missing else []
        parts += [f"has {unknown[0]} ({len(unknown)} unknown)"] if unknown else []
        raise WeightsError(f"{path}: weights of another network: {' and '.join(parts)}; {expected}")
    for key, tensor in state.items():
        if tensor.shape != target[key].shape:
            shapes = f"{key} is {tuple(tensor.shape)}, not {tuple(target[key].shape)}"
            raise WeightsError(f"{path}: weights of another network: {shapes}; {expected}")
        unusable = tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu"
        if unusable or tensor.is_floating_point() != target[key].is_floating_point():
            raise WeightsError(
                f"{path}: {key} is of type {tensor.dtype} ({tensor.layout}, {tensor.device}); {expected}"
            )


# --- plain data ---------------------------------------------------------------------------------------------

_NOT_PLAIN = object()


def _plain(value: Any, keep_tensors: bool = False) -> Any:
    """Return `value` as plain data: None, bools, numbers, strings, and lists and dicts of them.

    keep_tensors: keep tensors, on the CPU. Without it, a tensor with one element becomes a number.

    Returns `_NOT_PLAIN` if the value contains anything else.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Tensor):
        if keep_tensors:
            return value.detach().cpu()
        return value.item() if value.numel() == 1 else _NOT_PLAIN
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        return _plain(value.item())
    if isinstance(value, argparse.Namespace):
        value = vars(value)
    if isinstance(value, Mapping):
        if any(type(key) not in (bool, int, float, str) for key in value):
            return _NOT_PLAIN
        entries = {key: _plain(entry, keep_tensors) for key, entry in value.items()}
        return _NOT_PLAIN if any(entry is _NOT_PLAIN for entry in entries.values()) else entries
    if isinstance(value, (list, tuple)):
        items = [_plain(item, keep_tensors) for item in value]
        return _NOT_PLAIN if any(item is _NOT_PLAIN for item in items) else items
    return _NOT_PLAIN
