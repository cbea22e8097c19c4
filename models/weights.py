"""Checkpoints: reading the files that the papers' authors published, writing our own, and a name for weights.

A file from the net is untrusted input: only tensors and plain data are read from it, everything is checked before the
first weight of the network changes, and whatever is wrong is said in one line.
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

import torch
from torch import Tensor, nn

from models.network import Network

State = dict[str, Tensor]
WHOLE = ("model", "state_dict")
"""Entries under which a file may hold its state dict."""


class WeightsError(ValueError):
    """A checkpoint that cannot be read, or does not belong to the network."""


def load_weights(net: Network, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a checkpoint into `net` and returns what rode along in the file as plain data (epoch, accuracy ...).

    Known formats: a state dict under `model` or `state_dict`, or bare; with the prefix `module.`; mdistiller's
    `module.student.*` beside the teacher; SSKD's `backbone.*` beside its head; SSKD's spelling of MobileNetV2's classifier.
    Namespaces come back as dicts, numpy scalars and one-element tensors as numbers; an entry that holds anything else
    (an optimizer's state) is left out.

    Raises `WeightsError` for a file that is missing, damaged, holds code, or does not fit; `net` is unchanged then.
    """
    path = Path(path)
    content = _read(path)
    state, rest = _split(path, content)
    state = {net.canonical_key(key): tensor for key, tensor in _without_prefixes(state).items()}
    own = net.state_dict(keep_vars=True)
    _check(path, net, own, state)
    with torch.no_grad():
        for key, tensor in state.items():
            own[key].copy_(tensor)
    beside = {key: _plain(value) for key, value in rest.items()}
    return {key: value for key, value in beside.items() if value is not _NOT_PLAIN}


def save_weights(net: nn.Module, path: str | os.PathLike[str], **extra: Any) -> None:
    """Writes `{"model": state dict, **extra}` as contiguous fp32 tensors of the CPU, atomically.

    extra: plain data or tensors, also nested (namespaces are written as dicts, numpy scalars as numbers). Missing folders
    are made. Raises `TypeError` for an extra named `model` or of another kind, `OSError` where the file cannot be written;
    an older file stays whole then.
    """
    if "model" in extra:
        raise TypeError("extra entry 'model'; allowed: any other name")
    beside = {key: _plain(value, keep_tensors=True) for key, value in extra.items()}
    for key, value in beside.items():
        if value is _NOT_PLAIN:
            raise TypeError(
                f"extra entry {key!r} is or holds more than plain data and tensors: {extra[key]!r:.80}"
            )
    state = {key: _as_saved(tensor) for key, tensor in net.state_dict().items()}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    whole = io.BytesIO()  # straight to a disk that is full, torch has no word for that
    torch.save({"model": state, **beside}, whole)
    try:
        with temporary.open("xb") as file:
            file.write(whole.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.filename is None and error.strerror is not None:  # a full disk does not say where
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def weights_hash(weights: nn.Module | Mapping[str, Tensor]) -> str:
    """16 hex digits that name weights: the same for a network, its state dict, and any file format they went through.

    sha256 over name, shape and fp32 bytes of every floating point tensor, in the order of names. Prefixes do not count, nor
    does `num_batches_tracked`, which old files lack and no result depends on.
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


# --- reading -------------------------------------------------------------------------------------------------------------


def _harmless() -> list[Any]:
    """Types beyond torch's own list that checkpoints of this field hold and that cannot run code."""
    allowed: list[Any] = [argparse.Namespace]
    try:
        import numpy as np
    except ImportError:
        return allowed
    allowed += [np.dtype, *{type(np.dtype(kind)) for kind in "?bhilqBHILQefd"}]
    # Files name numpy's scalar-making function by its module in the numpy that wrote them: another one since numpy 2.
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
        with torch.serialization.safe_globals(_harmless()), warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # of pickle protocols and archive kinds: the outcome says it better
            return torch.load(path, map_location="cpu", weights_only=True)
    except WeightsError:
        raise
    except Exception as error:  # a damaged file can make the reader fail in any way
        text = " ".join(str(error).split())
        if found := re.search(r"GLOBAL ([\w.]+)", text):
            raise WeightsError(
                f"{path}: refused, it holds {found[1]}; expected only tensors and plain data"
            ) from None
        cause = text.partition("WeightsUnpickler error: ")[2] or text
        cause = f"{type(error).__name__}: {cause}"[:100].partition(". ")[0].rstrip(" .:")
        raise WeightsError(
            f"{path}: damaged, or not a checkpoint ({cause}); expected a file of torch.save"
        ) from None


def _split(path: Path, content: Any) -> tuple[State, dict[str, Any]]:
    """The state dict in a file, and the entries beside it."""
    if not isinstance(content, Mapping):
        raise WeightsError(
            f"{path}: holds a {type(content).__name__}; expected a dict with a state dict in it"
        )
    whole = next((key for key in WHOLE if isinstance(content.get(key), Mapping)), None)
    state = content if whole is None else content[whole]
    rest = {} if whole is None else {str(key): value for key, value in content.items() if key != whole}
    if not state:
        raise WeightsError(f"{path}: its state dict is empty; expected weights")
    for key, tensor in state.items():
        if not isinstance(key, str) or not isinstance(tensor, Tensor):
            where = "neither model nor state_dict is in it, it" if whole is None else f"its entry {whole!r}"
            found = f"{where} holds {key!r}: {type(tensor).__name__}"
            raise WeightsError(f"{path}: {found}; expected a state dict of tensors")
    return dict(state), rest


def _without_prefixes(state: State) -> State:
    """The network's own tensors under its own names, whatever it was wrapped in and saved beside."""
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


def _check(path: Path, net: Network, own: Mapping[str, Tensor], state: State) -> None:
    """Raises `WeightsError` unless `state` can be copied into `own`, tensor by tensor."""
    wanted = f"expected {net.name or type(net).__name__} with {net.linear_head().out_features} classes"
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unknown = [key for key in state if key not in own]
    if missing or unknown:
        parts = [f"lacks {missing[0]} ({len(missing)} missing)"] if missing else []
        parts += [f"has {unknown[0]} ({len(unknown)} unknown)"] if unknown else []
        raise WeightsError(f"{path}: weights of another network: {' and '.join(parts)}; {wanted}")
    for key, tensor in state.items():
        if tensor.shape != own[key].shape:
            shapes = f"{key} is {tuple(tensor.shape)}, not {tuple(own[key].shape)}"
            raise WeightsError(f"{path}: weights of another network: {shapes}; {wanted}")
        odd = tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu"
        if odd or tensor.is_floating_point() != own[key].is_floating_point():
            raise WeightsError(
                f"{path}: {key} is of type {tensor.dtype} ({tensor.layout}, {tensor.device}); {wanted}"
            )


# --- plain data ----------------------------------------------------------------------------------------------------------

_NOT_PLAIN = object()


def _plain(value: Any, keep_tensors: bool = False) -> Any:
    """`value` as None, bools, numbers, text, lists and dicts of them; `_NOT_PLAIN` where it holds anything else.

    Tensors stay, on the CPU, with `keep_tensors`; else one with a single element becomes a number.
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
