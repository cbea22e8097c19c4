"""A pack's steps as graphs: captured once, replayed for every later batch, the students side by side.

Small networks on a GPU are a thousand small kernels a step, and the host launches them more slowly than the device runs them. So one graph
holds a batch's making and the teacher's passes, and one a student's whole step: forward, loss, backward, optimiser, memory banks,
meter. The students' graphs are replayed on streams of their own, behind the teacher's; with `DEPTH` copies of the batch the teacher of the next
step does not wait for the slowest student of this one.

What makes that a mere matter of speed: the first `WARM` steps of a size are eager and real, a capture runs nothing, and a replay does what the
eager step would. Whatever a step reads lies where it lay (weights, learning rate, generators, banks, sums), and where a number that the
host knew goes into a graph (a schedule's factor), the graph is captured again when it has changed. A method that cannot be captured is
stepped eagerly beside the others, and said so.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from benchmark.data.stream import Batch, BatchDraw, Stream
from benchmark.methods import Method
from benchmark.training.execution import Execution

if TYPE_CHECKING:
    from benchmark.training.active_run import ActiveRun
    from benchmark.training.lockstep import Lockstep, Seen
    from models import Features

WARM = 2
"""Eager steps of a size before it is captured: momenta, workspaces and chosen algorithms come into being there."""
DEPTH = 2
"""Batches under way at the same time."""


class Graph(Protocol):
    def replay(self) -> None: ...


class Device(Protocol):
    """What can capture. `Cuda` is the one; a test has one that plays a tape on the CPU."""

    def new_stream(self) -> Any: ...
    def current(self) -> Any: ...
    def on(self, stream: Any) -> AbstractContextManager[Any]: ...
    def mark(self, stream: Any) -> Any: ...
    def wait(self, stream: Any, mark: Any) -> None: ...
    def synchronise(self) -> None: ...
    def pool(self) -> Any: ...

    def capture(
        self, work: Callable[[], Any], stream: Any, generators: Iterable[torch.Generator], pool: Any
    ) -> Graph:
        """Records `work` without running it; raises what it raises, or what the capture does not allow."""


class Cuda:
    """Streams, events and graphs of one GPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def new_stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream(self.device)

    def current(self) -> torch.cuda.Stream:
        return torch.cuda.current_stream(self.device)

    def on(self, stream: Any) -> AbstractContextManager[Any]:
        return torch.cuda.stream(stream)

    def mark(self, stream: Any) -> torch.cuda.Event:
        event = torch.cuda.Event()
        event.record(stream)
        return event

    def wait(self, stream: Any, mark: Any) -> None:
        stream.wait_event(mark)

    def synchronise(self) -> None:
        torch.cuda.synchronize(self.device)

    def pool(self) -> Any:
        return torch.cuda.graph_pool_handle()

    def capture(
        self, work: Callable[[], Any], stream: Any, generators: Iterable[torch.Generator], pool: Any
    ) -> Graph:
        graph = torch.cuda.CUDAGraph()
        for generator in generators:
            graph.register_generator_state(generator)
        self.synchronise()
        torch.cuda.empty_cache()  # a capture cannot free what other pools keep without using it
        with torch.cuda.stream(stream):
            graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                work()
            except BaseException:
                with contextlib.suppress(
                    RuntimeError
                ):  # it would only say that the capture is broken: `work` has said why
                    graph.capture_end()
                raise
            graph.capture_end()
        return graph


@dataclass
class Front:
    """A batch and what is seen of the teacher, in memory that stays; readers: marks after which the batch may be written over."""

    rows: BatchDraw
    batch: Batch
    seen: Seen
    graph: Graph
    readers: list[Any] = field(default_factory=list)


@dataclass
class Back:
    """An item on its way to be replayed. knew: the host's numbers that are in its graphs; warm: eager steps so far, by size."""

    item: ActiveRun
    stream: Any
    pool: Any
    knew: Any = None
    warm: Counter[int] = field(default_factory=Counter)
    graphs: dict[int, Graph] = field(default_factory=dict)  # by the identity of the front that it reads
    refused: bool = False


class Graphs:
    """The graphs of a pack. They outlive its epochs; `Lockstep.steps` asks for every step."""

    def __init__(self, device: Device, told: Callable[[str], None] = lambda text: None) -> None:
        self.device, self.told = device, told
        self.side = device.new_stream()
        self._backs: dict[int, Back] = {}
        self._fronts: dict[tuple[int, int], Front] = {}  # by turn and size
        self._warm: Counter[int] = Counter()
        self._signature: tuple[Any, ...] = ()
        self._turn = 0

    def steps(
        self,
        lockstep: Lockstep,
        stream: Stream,
        every: Iterable[BatchDraw],
        failed: Callable[[ActiveRun, Exception], None] | None,
    ) -> Iterator[tuple[int, int]]:
        """An epoch; see `Lockstep.steps`."""
        self._begin(lockstep, stream)
        try:
            for rows in every:
                yield len(rows.indices), self._step(lockstep, stream, rows, failed)
        finally:
            self.device.synchronise()

    @contextlib.contextmanager
    def beside(self, item: ActiveRun) -> Iterator[None]:
        """An eager step of the item on its own stream, between what the current one did before and what it does after."""
        main, own = self.device.current(), self._back(item).stream
        self.device.wait(own, self.device.mark(main))
        try:
            with self.device.on(own):
                yield
        finally:
            self.device.wait(main, self.device.mark(own))

    # --- an epoch -----------------------------------------------------------------------------------------------------------

    def _begin(self, lockstep: Lockstep, stream: Stream) -> None:
        """Drops the graphs that no longer say what a step does."""
        signature = (id(stream), id(lockstep.teacher), id(lockstep.table), *lockstep.signature)
        if signature != self._signature:
            self._fronts.clear()
            self._warm.clear()
            for back in self._backs.values():
                self._forget(back)
            self._signature = signature
        here = {id(item) for item in lockstep.items}
        self._backs = {k: b for k, b in self._backs.items() if k in here}
        for item in lockstep.items:
            back, knows = self._back(item), what_the_host_knows(item)
            if knows != back.knew:
                if back.knew is None or knows[0] != back.knew[0]:
                    back.warm.clear()  # another stage: another optimiser
                    back.refused = False
                self._forget(back)
                back.knew = knows

    def _back(self, item: ActiveRun) -> Back:
        if id(item) not in self._backs:
            self._backs[id(item)] = Back(item, self.device.new_stream(), self.device.pool())
        return self._backs[id(item)]

    def _forget(self, back: Back) -> None:
        """Drops an item's graphs. Their pool goes with the last of them: a capture into it would be refused."""
        if back.graphs:
            back.graphs.clear()
            back.pool = self.device.pool()

    # --- a step ---------------------------------------------------------------------------------------------------------------

    def _step(
        self,
        lockstep: Lockstep,
        stream: Stream,
        rows: BatchDraw,
        failed: Callable[[ActiveRun, Exception], None] | None,
    ) -> int:
        size = len(rows.indices)
        if self._warm[size] < WARM:
            self._warm[size] += 1
            for item in lockstep.items:
                self._back(item).warm[size] += 1
            return lockstep.step(lockstep.make(stream, rows), failed)
        main = self.device.current()
        slot = (self._turn % DEPTH, size)
        self._turn += 1
        if slot not in self._fronts:
            self._fronts[slot] = self._front(lockstep, stream, rows.clone())
        front = self._fronts[slot]
        for mark in front.readers:
            self.device.wait(main, mark)
        front.readers.clear()
        front.rows.copy_(rows)
        front.graph.replay()
        ready = self.device.mark(main)

        def one(i: int) -> None:
            back = self._back(lockstep.items[i])
            seen = lockstep.seen_by(
                i, front.seen
            )  # by this epoch's items: the front may be older than their list
            graph = self._graph(back, front, seen, size)
            self.device.wait(back.stream, ready)
            with self.device.on(back.stream):
                if graph is None:
                    back.warm[size] += 1
                    back.item.step(front.batch, seen)
                else:
                    graph.replay()
            front.readers.append(self.device.mark(back.stream))

        return lockstep.students(one, size, failed)

    def _front(self, lockstep: Lockstep, stream: Stream, rows: BatchDraw) -> Front:
        made: list[tuple[Batch, Seen]] = []

        def work() -> None:
            batch = lockstep.make(stream, rows)
            made.append((batch, lockstep.see(batch)))

        graph = self.device.capture(work, self.side, (), self.device.pool())
        return Front(rows, *made[0], graph)

    def _graph(self, back: Back, front: Front, seen: Mapping[str, Features], size: int) -> Graph | None:
        """The item's graph on this front, captured if it is time to; None for an eager step."""
        if id(front) in back.graphs:
            return back.graphs[id(front)]
        if back.refused or back.warm[size] < WARM:
            return None
        item = back.item
        states = {name: g.get_state() for name, g in item.generators.items()}
        sums, places = set(item.meter.sums), _places(item)

        def work() -> None:
            item.step(front.batch, seen)
            if _places(item) != places:
                raise RuntimeError(
                    "a tensor that outlives the step was replaced by another; allowed: copy_ into it"
                )
            if set(item.meter.sums) != sums:
                raise RuntimeError("a term that the steps before did not have")

        try:
            back.graphs[id(front)] = self.device.capture(
                work, back.stream, item.generators.values(), back.pool
            )
        except Exception as error:
            back.refused = True
            back.graphs.clear()
            for name in set(item.meter.sums) - sums:
                del item.meter.sums[name]
            for (
                name,
                state,
            ) in states.items():  # a broken capture leaves a generator that does not draw any more
                item.generators[name] = torch.Generator(item.generators[name].device)
                item.generators[name].set_state(state)
            for group in item.optimizer.param_groups if item.optimizer is not None else ():
                for p in group["params"]:
                    p.grad = None
            self.told(
                f"{item.run.key} is stepped without a graph: {str(error).strip().splitlines()[0][:200]}"
            )
            return None
        return back.graphs[id(front)]


def what_the_host_knows(item: ActiveRun) -> tuple[Any, ...]:
    """What goes into a graph as a constant: the stage with its optimiser, then every plain number, switch and name among the methods'
    attributes, one level of their own objects deep, and the weights of their terms."""
    found: list[Any] = []
    for name, module in item.objective.named_modules():
        found.append((name, _plain(module)))
    for name, method in item.objective.methods.items():
        assert isinstance(method, Method)
        found.append(
            (name, tuple(sorted((term, method.weight_of(term)) for term in method.weights(method.config))))
        )
    return (item.stage_index, id(item.optimizer)), tuple(found)


def _plain(holder: Any, deep: bool = True) -> tuple[Any, ...]:
    found: list[Any] = []
    for name, value in vars(holder).items():
        if isinstance(value, bool | int | float | str):
            found.append((name, value))
        elif isinstance(value, tuple | list) and all(isinstance(v, bool | int | float | str) for v in value):
            found.append((name, tuple(value)))
        elif (
            deep and not isinstance(value, nn.Module | torch.Tensor | Mapping) and hasattr(value, "__dict__")
        ):
            found.append((name, _plain(value, deep=False)))
    return tuple(found)


def _places(item: ActiveRun) -> dict[str, int]:
    """Where the tensors lie that the methods keep from step to step: a replay reads and writes them there."""
    found: dict[str, int] = {}
    for name, module in item.objective.named_modules():
        held = {**module._parameters, **module._buffers, **vars(module)}
        found |= {f"{name}.{k}": v.data_ptr() for k, v in held.items() if isinstance(v, torch.Tensor)}
    return found


def of(execution: Execution, told: Callable[[str], None] = lambda text: None) -> Graphs | None:
    """The graphs of a pack under this execution; None where steps are eager: on a CPU, and where `graphs` is off."""
    if execution.torch_device.type != "cuda" or not execution.graphs:
        return None
    return Graphs(Cuda(execution.torch_device), told)
