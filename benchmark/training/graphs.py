"""Stepping a pack with CUDA graphs: captured once, replayed for every later batch, the students in parallel.

On a GPU, a step of small networks is a thousand small kernels, which the host launches more slowly than the
device runs them. So one graph holds the making of a batch and the teacher's passes, and one graph per
student its whole step: forward, loss, backward, optimiser, memory banks and meter. Each student's graph is
replayed on its own stream, after the teacher's graph. There are `BATCH_SLOTS` copies of the batch, so that
the teacher can go on to the next step before the slowest student has finished the current one.

Replaying changes the speed and not the result:

- The first `WARM_UP_STEPS` steps of each batch shape are eager steps that train. A capture executes nothing,
  and a replay does what the eager step would do.
- A graph reads and writes fixed memory. Everything that a step reads is therefore changed in place: weights,
  learning rate, generators, memory banks, sums.
- A number that the host puts into a step (such as the factor of a schedule) is a constant of the graph.
  When it changes, the graph is captured again.
- A method that cannot be captured is stepped eagerly next to the others, and the reporter is notified. So is
  one that draws from a global generator (`nn.Dropout` does): on the host its draws would be constants of the
  graph, and the graphs of several students would share the state of the GPU's generator.
- A replay runs no Python, so what a method may not change (guard.py) is checked in eager steps and captures.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from benchmark.data.stream import Batch, BatchDraw, Stream
from benchmark.methods import Leak, Method
from benchmark.seeds import gpu_generator
from benchmark.training.active_run import ActiveRun
from benchmark.training.execution import Execution
from benchmark.training.lockstep import Lockstep, OnFailure, TeacherFeatures
from benchmark.training.stepper import EagerStepper, Stepper
from models import Features

WARM_UP_STEPS = 2
"""Eager steps of a batch shape before it is captured: they create momenta and choose algorithms."""
BATCH_SLOTS = 2
"""Batches that are processed at the same time."""

DRAWS = "it draws from a global generator, as nn.Dropout does; draws from step.generator can be replayed"

Shape = tuple[int, int]
"""Number of rows of a batch, and of those in its first part."""

Note = Callable[[str], None]
"""Receives a line for the user."""


class Graph(Protocol):
    """A captured graph."""

    def replay(self) -> None: ...


class Device(Protocol):
    """A device that can capture graphs: `Cuda`, or in tests a tape that replays operators on the CPU."""

    def new_stream(self) -> Any: ...
    def current(self) -> Any:
        """Return the current stream."""

    def on(self, stream: Any) -> AbstractContextManager[Any]:
        """Return a context in which `stream` is the current stream."""

    def mark(self, stream: Any) -> Any:
        """Return an event after everything that has been submitted to `stream` so far."""

    def wait(self, stream: Any, mark: Any) -> None:
        """Make later work on `stream` wait for an event."""

    def synchronise(self) -> None: ...
    def drawn(self) -> int:
        """Return how far the device's global generator has advanced. Does not wait for the device."""

    def pool(self) -> Any:
        """Return a new memory pool for graphs."""

    def capture(
        self, work: Callable[[], Any], stream: Any, generators: Iterable[torch.Generator], pool: Any
    ) -> Graph:
        """Record `work` without executing it. Raises an error if `work` does, or if it cannot be captured."""


class Cuda:
    """The streams, events and graphs of one GPU."""

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

    def drawn(self) -> int:
        return gpu_generator(self.device).get_offset()

    def pool(self) -> Any:
        return torch.cuda.graph_pool_handle()

    def capture(
        self, work: Callable[[], Any], stream: Any, generators: Iterable[torch.Generator], pool: Any
    ) -> Graph:
        graph = torch.cuda.CUDAGraph()
        for generator in generators:
            graph.register_generator_state(generator)
        self.synchronise()
        torch.cuda.empty_cache()  # a capture cannot free memory that other pools hold unused
        with torch.cuda.stream(stream):
            graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                work()
            except BaseException:
                with contextlib.suppress(RuntimeError):  # it would hide the error of `work`
                    graph.capture_end()
                with contextlib.suppress(RuntimeError):
                    # after a failed capture, the global generator, which every capture uses, may not draw any
                    # more; other runs may need it
                    fresh = torch.Generator(self.device).graphsafe_get_state()
                    gpu_generator(self.device).graphsafe_set_state(fresh)
                raise
            graph.capture_end()
        return graph


@dataclass
class BatchSlot:
    """Fixed memory for a batch and the teacher's features of it, with the graph that fills it."""

    draw: BatchDraw
    batch: Batch
    features: TeacherFeatures
    graph: Graph
    readers: list[Any] = field(default_factory=list)
    """Events after which the students have read the batch, so that it may be overwritten."""


@dataclass
class StudentGraphs:
    """The graphs of one run."""

    active: ActiveRun
    stream: Any
    pool: Any
    constants: StepConstants | None = None
    """The constants of the captured steps."""
    eager_steps: Counter[Shape] = field(default_factory=Counter)
    """Eager steps so far, by the batch's shape."""
    graphs: dict[int, Graph] = field(default_factory=dict)
    """By the `id` of the batch slot that a graph reads."""
    just_captured: bool = False
    """Whether the latest graph has not been replayed."""
    refused: bool = False
    """Whether a capture has failed; the run is stepped eagerly then."""


class GraphStepper(Stepper):
    """Steps the runs of a pack by replaying graphs."""

    def __init__(self, device: Device, note: Note = lambda text: None) -> None:
        self.device, self.note = device, note
        self._capture_stream = device.new_stream()
        self._students: dict[int, StudentGraphs] = {}  # by the `id` of the active run
        self._slots: dict[tuple[int, Shape], BatchSlot] = {}  # by number and the batch's shape
        self._eager_steps: Counter[Shape] = Counter()
        self._signature: tuple[Any, ...] = ()
        self._turn = 0

    def steps(
        self,
        lockstep: Lockstep,
        stream: Stream,
        stage: str,
        epoch: int,
        on_failure: OnFailure | None = None,
    ) -> Iterator[tuple[int, int]]:
        draws = lockstep.draws(stream, stage, epoch)
        self._begin_epoch(lockstep, stream, on_failure)
        try:
            for draw in draws:
                yield len(draw.indices), self._step(lockstep, stream, draw, on_failure)
        finally:
            self.synchronise()

    def synchronise(self) -> None:
        self.device.synchronise()

    # --- an epoch -------------------------------------------------------------------------------------------

    def _begin_epoch(self, lockstep: Lockstep, stream: Stream, on_failure: OnFailure | None) -> None:
        """Drop the graphs that no longer do what a step of this epoch does."""
        signature = (id(stream), id(lockstep.teacher), id(lockstep.teacher_cache), *lockstep.signature)
        if signature != self._signature:
            self._slots.clear()
            self._eager_steps.clear()
            for student in self._students.values():
                self._drop_graphs(student)
            self._signature = signature
        present = {id(active) for active in lockstep.active_runs}
        self._students = {k: student for k, student in self._students.items() if k in present}
        for active in lockstep.active_runs:
            if active.failure is not None:
                continue
            student = self._student(active)
            try:
                constants = step_constants(active)
            except Exception as error:  # of a method's `weights`
                if on_failure is None:
                    raise
                active.failure = active.objective.blamed("weights", error)
                on_failure(active, active.failure)
                continue
            if constants != student.constants:
                if student.constants is None or constants.stage != student.constants.stage:
                    student.eager_steps.clear()  # a new stage has a new optimiser
                    student.refused = active.draws_globally = False
                self._drop_graphs(student)
                student.constants = constants

    def _student(self, active: ActiveRun) -> StudentGraphs:
        if id(active) not in self._students:
            self._students[id(active)] = StudentGraphs(active, self.device.new_stream(), self.device.pool())
        return self._students[id(active)]

    def _drop_graphs(self, student: StudentGraphs) -> None:
        """Drop a run's graphs. A pool vanishes with its last graph, so the next capture needs a new one."""
        if student.graphs:
            student.graphs.clear()
            student.pool = self.device.pool()

    # --- a step ---------------------------------------------------------------------------------------------

    def _step(self, lockstep: Lockstep, stream: Stream, draw: BatchDraw, on_failure: OnFailure | None) -> int:
        """Step all runs on one batch. Returns how many have not failed."""
        shape = draw.shape
        if self._eager_steps[shape] < WARM_UP_STEPS:
            self._eager_steps[shape] += 1
            for active in lockstep.active_runs:
                self._student(active).eager_steps[shape] += 1
            return self._eager_step(lockstep, lockstep.make_batch(stream, draw), on_failure)
        main = self.device.current()
        key = (self._turn % BATCH_SLOTS, shape)
        self._turn += 1
        if key not in self._slots:
            self._slots[key] = self._capture_batch(lockstep, stream, draw.clone())
        slot = self._slots[key]
        for mark in slot.readers:
            self.device.wait(main, mark)
        slot.readers.clear()
        slot.draw.copy_(draw)
        slot.graph.replay()
        ready = self.device.mark(main)

        def step_run(i: int) -> None:
            student = self._student(lockstep.active_runs[i])
            self.device.wait(student.stream, ready)  # also for what `begin_epoch` has submitted to `main`
            with self.device.on(student.stream):
                student.active.begin_step()
            # taken from this epoch's lockstep, because the slot may have been captured for other runs
            features = lockstep.features_for(i, slot.features)
            graph = self._graph(student, slot, features, shape)
            with self.device.on(student.stream):
                if graph is None:
                    student.eager_steps[shape] += 1
                    self._train(student, slot.batch, features)
                else:
                    self._replay(student, graph)
            slot.readers.append(self.device.mark(student.stream))

        return lockstep.step_runs(step_run, len(draw.indices), on_failure, longest_first=True)

    def _eager_step(self, lockstep: Lockstep, batch: Batch, on_failure: OnFailure | None) -> int:
        """Step all runs eagerly, each on its own stream."""
        features = lockstep.teacher_features(batch)
        lockstep.watch_batch(batch, features)

        def step_run(i: int) -> None:
            active = lockstep.active_runs[i]
            main, stream = self.device.current(), self._student(active).stream
            self.device.wait(stream, self.device.mark(main))
            try:
                with self.device.on(stream):
                    active.begin_step()
                    self._train(self._student(active), batch, lockstep.features_for(i, features))
            finally:
                self.device.wait(main, self.device.mark(stream))

        return lockstep.step_runs(step_run, len(batch.labels), on_failure, longest_first=True)

    def _train(self, student: StudentGraphs, batch: Batch, features: Mapping[str, Features]) -> None:
        """Step a run eagerly, and note if the step draws from a global generator."""
        active = student.active
        active.step(batch, features)
        if not active.draws_globally and active.drew_globally():
            active.draws_globally = True
            self._step_eagerly(student, DRAWS)

    def _replay(self, student: StudentGraphs, graph: Graph) -> None:
        """Replay a run's graph. One that draws from the GPU's global generator is replayed only once."""
        before = self.device.drawn() if student.just_captured else 0
        graph.replay()
        if student.just_captured and self.device.drawn() != before:
            self.device.synchronise()  # the next run's first replay may use the generator's state too
            student.active.draws_globally = True
            self._step_eagerly(student, DRAWS)
        student.just_captured = False

    def _step_eagerly(self, student: StudentGraphs, why: str) -> None:
        """Step the run without graphs from now on, and notify the reporter."""
        student.refused = True
        student.graphs.clear()
        line = next(iter(why.strip().splitlines()), "")[:200]
        self.note(f"{student.active.run.key} is stepped without a graph: {line}")

    def _capture_batch(self, lockstep: Lockstep, stream: Stream, draw: BatchDraw) -> BatchSlot:
        """Capture the making of a batch and the teacher's passes. draw: memory of the slot."""
        captured: list[tuple[Batch, TeacherFeatures]] = []

        def work() -> None:
            batch = lockstep.make_batch(stream, draw)
            captured.append((batch, lockstep.teacher_features(batch)))

        graph = self.device.capture(work, self._capture_stream, (), self.device.pool())
        return BatchSlot(draw, *captured[0], graph)

    def _graph(
        self, student: StudentGraphs, slot: BatchSlot, features: Mapping[str, Features], shape: Shape
    ) -> Graph | None:
        """Return the run's graph that reads this slot, capturing it if necessary; None for an eager step."""
        if id(slot) in student.graphs:
            return student.graphs[id(slot)]
        if student.refused or student.eager_steps[shape] < WARM_UP_STEPS:
            return None
        active = student.active
        generator_states = {name: g.get_state() for name, g in active.generators.items()}
        sums, addresses = set(active.meter.sums), _tensor_addresses(active)

        def work() -> None:
            active.step(slot.batch, features)
            if active.drew_on_the_host():
                raise RuntimeError(DRAWS)
            if _tensor_addresses(active) != addresses:
                raise RuntimeError(
                    "the method replaced a tensor that it keeps between steps; change it in place with copy_"
                )
            if set(active.meter.sums) != sums:
                raise RuntimeError("the loss has a term that earlier steps did not have")

        try:
            student.graphs[id(slot)] = self.device.capture(
                work, student.stream, active.generators.values(), student.pool
            )
        except Leak:
            raise
        except Exception as error:
            for name in set(active.meter.sums) - sums:
                del active.meter.sums[name]
            for name, state in generator_states.items():
                # after a failed capture, a generator does not draw any more
                active.generators[name] = torch.Generator(active.generators[name].device)
                active.generators[name].set_state(state)
            for group in active.optimizer.param_groups if active.optimizer is not None else ():
                for p in group["params"]:
                    p.grad = None
            self._step_eagerly(student, str(error.__cause__ or error))
            return None
        student.just_captured = True
        active.seed_globals("step", active.step_number)  # of the GPU too, which a capture cannot seed
        return student.graphs[id(slot)]


@dataclass(frozen=True)
class StepConstants:
    """What a captured step contains as constants. When it changes, the step has to be captured again."""

    stage: tuple[int, int]
    """Index of the stage, and `id` of its optimiser."""
    methods: tuple[Any, ...]
    """Plain values among the methods' attributes, and the weights of their terms."""
    addresses: dict[str, int]
    """Of the tensors that the methods keep between steps: a replay would read one that was replaced since."""


def step_constants(active: ActiveRun) -> StepConstants:
    """Return the constants of a run's step in the current epoch.

    The plain values are all numbers, booleans and strings among the attributes of the methods and of their
    modules, and of the objects that these hold (one level deep).
    """
    values: list[Any] = [(name, _plain_attributes(m)) for name, m in active.objective.named_modules()]
    for name, method in active.objective.methods.items():
        assert isinstance(method, Method)
        weights = {term: method.weight_of(term) for term in method.weights(method.config)}
        values.append((name, tuple(sorted(weights.items()))))
    stage = active.stage_index, id(active.optimizer)
    return StepConstants(stage, tuple(values), _tensor_addresses(active))


def _plain_attributes(holder: Any, deep: bool = True) -> tuple[Any, ...]:
    values: list[Any] = []
    for name, value in vars(holder).items():
        if isinstance(value, bool | int | float | str):
            values.append((name, value))
        elif isinstance(value, tuple | list) and all(isinstance(v, bool | int | float | str) for v in value):
            values.append((name, tuple(value)))
        elif (
            deep and not isinstance(value, nn.Module | torch.Tensor | Mapping) and hasattr(value, "__dict__")
        ):
            values.append((name, _plain_attributes(value, deep=False)))
    return tuple(values)


def _tensor_addresses(active: ActiveRun) -> dict[str, int]:
    """Return the addresses of the tensors that the methods keep between steps. A replay uses them again."""
    addresses: dict[str, int] = {}
    for name, module in active.objective.named_modules():
        held = {**module._parameters, **module._buffers, **vars(module)}
        addresses |= {f"{name}.{k}": v.data_ptr() for k, v in held.items() if isinstance(v, torch.Tensor)}
    return addresses


def stepper_for(execution: Execution, note: Note = lambda text: None) -> Stepper:
    """Return the stepper of a pack: graphs on a GPU, eager steps on a CPU and where `graphs` is off."""
    if execution.torch_device.type == "cuda" and execution.graphs:
        return GraphStepper(Cuda(execution.torch_device), note)
    return EagerStepper()
