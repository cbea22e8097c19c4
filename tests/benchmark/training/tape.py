"""A device that captures graphs on the CPU, for tests of benchmark/training/graphs.py.

It records every operator of a step with the tensors it used; a replay calls the operators again on these
tensors. Like a CUDA graph, a replay does not execute the Python code of the step: numbers are constants
from the capture, and results go to the same memory. So what is right here is right there for the same
reasons. Unlike a CUDA capture, this one executes the operators, so the first replay after it does nothing.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Entry = tuple[Any, Any, Any, list[Tensor]]


def _tensors(tree: Any) -> list[Tensor]:
    return [t for t in tree_leaves(tree) if isinstance(t, Tensor)]


def _address(t: Tensor) -> int:
    return t.untyped_storage().data_ptr()


class _Recording(TorchDispatchMode):
    """Records the operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[Entry] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = {_address(t) for t in _tensors((args, kwargs))}
        out = func(*args, **kwargs)
        made = _tensors(out)
        if func._schema.is_mutable or any(
            _address(t) not in given for t in made
        ):  # any other operator makes a view
            self.entries.append((func, args, kwargs, made))
        return out


class TapePool:
    """A memory pool. Like CUDA's, it vanishes with the last graph that was captured into it."""

    def __init__(self) -> None:
        self.graphs = 0
        self.gone = False

    def leave(self) -> None:
        self.graphs -= 1
        self.gone = not self.graphs


class TapeGraph:
    """The recorded operators of a step."""

    def __init__(self, entries: list[Entry], pool: TapePool, on_replay: Callable[[], None]) -> None:
        self.entries, self.on_replay, self.replays = entries, on_replay, 0
        pool.graphs += 1
        weakref.finalize(self, pool.leave)

    def replay(self) -> None:
        self.replays += 1
        self.on_replay()
        if self.replays == 1:
            return
        with torch.no_grad():
            for func, args, kwargs, made in self.entries:
                for old, new in zip(made, _tensors(func(*args, **kwargs)), strict=True):
                    if _address(old) != _address(new):
                        old.copy_(new)


class Tape:
    """The device. It counts `captures` and `replays`; a capture fails if `refuse` returns True."""

    def __init__(self, refuse: Callable[[], bool] = lambda: False) -> None:
        self.captures = self.replays = 0
        self.refuse = refuse

    def replayed(self) -> None:
        self.replays += 1

    def new_stream(self) -> Any:
        return object()

    def current(self) -> Any:
        return None

    def on(self, stream: Any) -> AbstractContextManager[Any]:
        return contextlib.nullcontext()

    def mark(self, stream: Any) -> Any:
        return stream

    def wait(self, stream: Any, mark: Any) -> None: ...

    def synchronise(self) -> None: ...

    def drawn(self) -> int:
        return 0

    def pool(self) -> TapePool:
        return TapePool()

    def capture(
        self, work: Callable[[], Any], stream: Any, generators: Iterable[torch.Generator], pool: TapePool
    ) -> TapeGraph:
        assert not pool.gone, "a capture into a pool that vanished with its last graph"
        if self.refuse():
            raise RuntimeError("operation not permitted when stream is capturing\nand more lines")
        with _Recording() as recording:
            work()
        self.captures += 1
        return TapeGraph(recording.entries, pool, self.replayed)
