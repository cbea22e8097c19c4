"""Checkpoints: load those that the papers' authors published, write new ones, and hash weights.

Everything is checked before any weight of the network changes. An error is one line.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models import projector
from models.network import Network
from models.registry import build, user_networks
from models.weight_files import NOT_PLAIN, State, WeightFile, WeightsError, plain, read_file, without_prefixes

_CLASSIFIERS = ("fc.weight", "linear.weight", "classifier.weight", "classifier.0.weight")
"""The names that networks here, and checkpoints of them, have for the classifier's weights."""


def load_weights(net: Network, source: str | os.PathLike[str] | WeightFile) -> dict[str, Any]:
    """Load a checkpoint into `net`. Return the other plain data of the file, such as epoch and accuracy.

    source: a path, or a file that `read_weights` has read.

    Known formats: those of torch.save and safetensors; a state dict under one of `weight_files.STATE_KEYS`
    (`model`, `state_dict`, `net`, `student`, `ema` ...), or the file itself; keys with the prefixes `module.`
    and `_orig_mod.`; mdistiller's `module.student.*` next to the teacher; SSKD's `backbone.*` next to its
    head; Lightning's `model.*`; SSKD's spelling of MobileNetV2's classifier; MoCo's `module.encoder_q.*`.
    Counters of batches (`num_batches_tracked`) may be missing. A projector in the file, under our names or
    those of MoCo-v2 and SwAV, becomes `net.projector`; the classifier may be missing then, and is set to 0.
    Of the other data, namespaces are returned as dicts, numpy scalars and one-element tensors as numbers; an
    entry with anything else (the state of an optimizer) is left out.

    Raises `WeightsError` for a file that is missing, is damaged, contains code, does not fit, or has a weight
    that is not finite. Then `net` is unchanged.
    """
    file = source if isinstance(source, WeightFile) else read_weights(source)
    misfits = []
    for entry, state in file.states:
        target, state, made = _matched(net, state)
        if misfit := _misfit(target, state):
            misfits.append(misfit)
            continue
        _check_values(file.path, target, state)
        net.projector = made
        net.has_classifier = all(key in state for key in _classifier(net))
        with torch.no_grad():
            if not net.has_classifier:
                for parameter in net.linear_head().parameters():
                    parameter.zero_()
            for key, tensor in state.items():
                target[key].copy_(tensor)
        return file.extra(entry)
    expected = f"expected {net.name or type(net).__name__} with {net.linear_head().out_features} classes"
    raise WeightsError(f"{file.path}: {misfits[0]}; {expected}")


def read_weights(path: str | os.PathLike[str]) -> WeightFile:
    """Read a checkpoint without a network. Raises `WeightsError` (see `load_weights`)."""
    return read_file(Path(path))


def fitting(file: WeightFile, names: Iterable[str], num_classes: Iterable[int]) -> list[tuple[str, int]]:
    """Return `(network, number of classes)` of the networks whose tensors are those of a file."""
    return [
        (name, classes)
        for name in names
        for classes in num_classes
        if any(_misfit(*_matched(_blueprint(name, classes), state)[:2]) == "" for _, state in file.states)
    ]


def lacks_classifier(file: WeightFile) -> bool:
    """Return whether a file holds a self-supervised network: it has a projector and no classifier."""
    named = [projector.with_known_names(state) for _, state in file.states]
    return any(projector.of_state(state) and not any(key in _CLASSIFIERS for key in state) for state in named)


@functools.cache
def _blueprint(name: str, num_classes: int) -> Network:
    """Return a network whose tensors have no memory (a user's has: not every module can be built without)."""
    if name in user_networks():
        with torch.random.fork_rng(devices=[]):
            return build(name, num_classes)
    with torch.device("meta"):
        return build(name, num_classes)


def _matched(net: Network, state: State) -> tuple[State, State, nn.Module | None]:
    """Return the tensors that a state dict fills, the state dict with their names, and its projector.

    The projector, if there is one, has fresh weights, and its tensors are among those to be filled. The
    classifier is not if the state dict has a projector and no classifier.
    """
    named = projector.with_known_names(state)
    target = {k: v for k, v in net.state_dict(keep_vars=True).items() if not k.startswith(projector.PREFIX)}
    made: nn.Module | None = None
    if head := projector.of_state(named):
        with torch.random.fork_rng(devices=[]):
            made = projector.build_projector(head)
        if made is not None:
            made.to(net.linear_head().weight.device).train(net.training)
            target |= {projector.PREFIX + k: v for k, v in made.state_dict(keep_vars=True).items()}
    renamed = {
        key if key.startswith(projector.PREFIX) else net.canonical_key(key): tensor
        for key, tensor in named.items()
    }
    if made is not None:
        classifier = _classifier(net)
        if not any(key in renamed for key in classifier):
            target = {key: tensor for key, tensor in target.items() if key not in classifier}
    return target, renamed, made


def _classifier(net: Network) -> list[str]:
    """Return the names of the classifier's tensors."""
    head = {id(parameter) for parameter in net.linear_head().parameters()}
    return [name for name, parameter in net.named_parameters() if id(parameter) in head]


def save_weights(
    net: nn.Module,
    path: str | os.PathLike[str],
    head: nn.Module | None = None,
    /,
    **extra: Any,
) -> None:
    """Write `{"model": state dict, **extra}` atomically. Floating point tensors are stored in fp32.

    head: a projector to store with the network, which `load_weights` restores as `net.projector`.
    extra: plain data or tensors, which may be nested. Namespaces are written as dicts, numpy scalars as
        numbers.

    Missing folders are created. Raises `TypeError` for an extra entry that is named `model` or contains
    other data, and `OSError` if the file cannot be written; an older file stays intact then.
    """
    if "model" in extra:
        raise TypeError(
            "an extra entry cannot be named 'model', which holds the weights; give it another name"
        )
    rest = {key: plain(value, keep_tensors=True) for key, value in extra.items()}
    for key, value in rest.items():
        if value is NOT_PLAIN:
            raise TypeError(
                f"extra entry {key!r} must contain only plain data and tensors, but is {extra[key]!r:.80}"
            )
    weights = net.state_dict() | projector.state_of_projector(head)
    state = {key: _as_saved(tensor) for key, tensor in weights.items()}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    buffer = io.BytesIO()  # written to a full disk directly, torch.save would raise no clear error
    torch.save({"model": state, **rest}, buffer)
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
    not depend on prefixes, nor on `num_batches_tracked`, which old files lack and which changes no result. A
    classifier that no file had does not count: its size is that of the data set.
    """
    state = dict(weights.state_dict() if isinstance(weights, nn.Module) else weights)
    if isinstance(weights, Network) and not weights.has_classifier:
        classifier = _classifier(weights)
        state = {key: tensor for key, tensor in state.items() if key not in classifier}
    named = {
        key.replace("classifier.0.", "classifier."): tensor for key, tensor in without_prefixes(state).items()
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


# --- checks -------------------------------------------------------------------------------------------------


def _misfit(target: Mapping[str, Tensor], state: State) -> str:
    """Say why `state` cannot be copied into `target` tensor by tensor, "" if it can."""
    missing = [key for key in target if key not in state and not key.endswith("num_batches_tracked")]
    unknown = [key for key in state if key not in target]
    if missing or unknown:
        parts = [f"lacks {missing[0]} ({len(missing)} missing)"] if missing else []
        parts += [f"has {unknown[0]} ({len(unknown)} unknown)"] if unknown else []
        return f"weights of another network: {' and '.join(parts)}"
    for key, tensor in state.items():
        if tensor.shape != target[key].shape:
            shapes = f"{key} is {tuple(tensor.shape)}, not {tuple(target[key].shape)}"
            return f"weights of another network: {shapes}"
        unusable = tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu"
        if unusable or tensor.is_floating_point() != target[key].is_floating_point():
            return f"{key} is of type {tensor.dtype} ({tensor.layout}, {tensor.device})"
    return ""


def _check_values(path: Path, target: Mapping[str, Tensor], state: State) -> None:
    """Raise `WeightsError` for a tensor with which the network's outputs would not be finite."""
    for key, tensor in state.items():
        if not tensor.is_floating_point():
            continue
        # as it will be stored: a large fp64 number is infinite in fp32
        values = tensor.detach().to(target[key].dtype)
        bad = int((~torch.isfinite(values)).sum())
        if bad:
            raise WeightsError(
                f"{path}: {key} has NaN or infinity in {bad} of {values.numel()} values; "
                "expected finite weights, so the training that wrote it has probably diverged"
            )
        if key.endswith("running_var") and bool((values < 0).any()):
            raise WeightsError(f"{path}: {key} has negative variances; expected 0 and more")
