"""The settings of PyTorch that change what is computed: read them, and put them back.

A user's method may change them by mistake. They belong to the calling thread or to the whole process, so the
runs that are computed next would be computed in another way.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.utils import _python_dispatch


@dataclass(frozen=True)
class Setting:
    """A setting of the process or of a thread that changes what is computed."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], Any]


_left_open: list[Any] = []
"""Contexts that cancel one that a method left open. Closing them would bring it back."""


def _set_inference_mode(value: bool) -> None:
    context = torch.inference_mode(value)
    context.__enter__()
    _left_open.append(context)


def _autocast_depth() -> int:
    depth: int = torch.autocast_increment_nesting()
    torch.autocast_decrement_nesting()
    return depth


def _set_autocast_depth(depth: int) -> None:
    while (now := _autocast_depth()) != depth:
        (torch.autocast_decrement_nesting if now > depth else torch.autocast_increment_nesting)()
    torch.clear_autocast_cache()


def _set_function_modes(depth: int) -> None:
    if torch._C._len_torch_function_stack() > depth:
        torch.set_default_device(None)  # one kind of function mode, which PyTorch remembers elsewhere too
    while torch._C._len_torch_function_stack() > depth:
        torch._C._pop_torch_function_stack()


def _set_dispatch_modes(depth: int) -> None:
    while torch._C._len_torch_dispatch_stack() > depth:
        _python_dispatch._pop_mode()


_smallest_normal = [sys.float_info.min]


def _flushes_denormals() -> bool:
    return _smallest_normal[0] * 0.5 == 0.0


def _autocast(device: str) -> list[Setting]:
    return [
        Setting(
            f"autocast on {device}",
            partial(torch.is_autocast_enabled, device),
            partial(torch.set_autocast_enabled, device),
        ),
        Setting(
            f"the precision of autocast on {device}",
            partial(torch.get_autocast_dtype, device),
            partial(torch.set_autocast_dtype, device),
        ),
    ]


OF_THREAD = (
    Setting("inference mode", torch.is_inference_mode_enabled, _set_inference_mode),
    Setting("grad mode", torch.is_grad_enabled, torch.set_grad_enabled),
    *_autocast("cpu"),
    *_autocast("cuda"),
    Setting("the depth of autocast", _autocast_depth, _set_autocast_depth),
    Setting("autocast's cache", torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled),
    Setting("the number of threads", torch.get_num_threads, torch.set_num_threads),
    Setting("the function modes", torch._C._len_torch_function_stack, _set_function_modes),
    Setting("the dispatch modes", torch._C._len_torch_dispatch_stack, _set_dispatch_modes),
    Setting("the flushing of denormals", _flushes_denormals, torch.set_flush_denormal),
)
"""Settings of the calling thread."""


def _attribute(holder: Any, name: str, label: str = "") -> Setting:
    return Setting(
        label or f"{holder.__name__}.{name}", partial(getattr, holder, name), partial(setattr, holder, name)
    )


def _fp32_precision(backend: str, operators: str) -> Setting:
    return Setting(
        f"fp32_precision of {backend} ({operators})",
        partial(torch._C._get_fp32_precision_getter, backend, operators),
        partial(torch._C._set_fp32_precision_setter, backend, operators),
    )


def _matmul_precision() -> str:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # PyTorch refuses to answer after its old and its new interface were mixed
        return "mixed"


def _deterministic() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _anomaly() -> tuple[bool, bool]:
    return torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()


OF_PROCESS = (
    Setting("the default dtype", torch.get_default_dtype, torch.set_default_dtype),
    Setting("the float32 matmul precision", _matmul_precision, torch.set_float32_matmul_precision),
    *(
        _fp32_precision(backend, operators)
        for backend, kinds in (
            ("generic", ("all",)),
            ("cuda", ("all", "matmul", "conv", "rnn")),
            ("mkldnn", ("all", "matmul", "conv", "rnn")),
        )
        for operators in kinds
    ),
    _attribute(torch.backends.cudnn, "enabled", "torch.backends.cudnn.enabled"),
    _attribute(torch.backends.cudnn, "benchmark", "torch.backends.cudnn.benchmark"),
    _attribute(torch.backends.cudnn, "deterministic", "torch.backends.cudnn.deterministic"),
    Setting(
        "torch.backends.mkldnn.enabled",
        torch._C._get_mkldnn_enabled,
        partial(setattr, torch.backends.mkldnn, "enabled"),
    ),
    Setting(
        "deterministic algorithms",
        _deterministic,
        lambda v: torch.use_deterministic_algorithms(v[0], warn_only=v[1]),
    ),
    Setting("anomaly detection", _anomaly, lambda v: torch.set_anomaly_enabled(*v)),
)
"""Settings of the whole process."""

ALL = (*OF_THREAD, *OF_PROCESS)


def read_settings(settings: Iterable[Setting]) -> list[Any]:
    """Return the values of the settings."""
    return [s.read() for s in settings]


def put_back(settings: tuple[Setting, ...], before: list[Any]) -> list[str]:
    """Give the settings the values `before`.

    Returns what was changed, such as `grad mode (True to False)`.
    """
    changed = [
        f"{s.name} ({old} to {new})"
        for s, old, new in zip(settings, before, read_settings(settings), strict=True)
        if old != new
    ]
    for s, old in zip(settings, before, strict=True):
        if s.read() != old:  # read again: some settings follow others
            s.write(old)
    return changed
