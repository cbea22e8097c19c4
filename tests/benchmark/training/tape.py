"""A device that captures on the CPU: it writes down every operator of a step with the tensors it used, and a replay calls them again on those.

Like a CUDA graph, a replay knows nothing of the Python that made it: numbers are those of the capture, results go where they went then.
What comes out right here does so for the same reasons there. Unlike one, a capture does run, so the first replay after it is left out.
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


def _place(t: Tensor) -> int:
    return t.untyped_storage().data_ptr()


class _Writing(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.written: list[Entry] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = {_place(t) for t in _tensors((args, kwargs))}
        out = func(*args, **kwargs)
        made = _tensors(out)
        if func._schema.is_mutable or any(_place(t) not in given for t in made):  # what is neither is a view
            self.written.append((func, args, kwargs, made))
        return out


class TapePool:
    """Like CUDA's, it is gone with the last graph that was captured into it."""

    def __init__(self) -> None:
        self.graphs = 0
        self.gone = False

    def leave(self) -> None:
        self.graphs -= 1
        self.gone = not self.graphs


class TapeGraph:
    def __init__(self, written: list[Entry], pool: TapePool, told: Callable[[], None]) -> None:
        self.written, self.told, self.replays = written, told, 0
        pool.graphs += 1
        weakref.finalize(self, pool.leave)

    def replay(self) -> None:
        self.replays += 1
        self.told()
        if self.replays == 1:
            return
        with torch.no_grad():
            for func, args, kwargs, made in self.written:
                for old, new in zip(made, _tensors(func(*args, **kwargs)), strict=True):
                    if _place(old) != _place(new):
                        old.copy_(new)


class Tape:
    """captures, replays: how many there were; refuse: asked before each capture, makes it fail."""

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

    def pool(self) -> TapePool:
        return TapePool()

    def capture(
        self, work: Callable[[], Any], stream: Any, generators: Iterable[torch.Generator], pool: TapePool
    ) -> TapeGraph:
        assert not pool.gone, "a capture into a pool that went with its last graph"
        if self.refuse():
            raise RuntimeError("operation not permitted when stream is capturing\nand more lines")
        with _Writing() as writing:
            work()
        self.captures += 1
        return TapeGraph(writing.written, pool, self.replayed)
