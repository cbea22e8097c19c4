"""The processes that train one pack together (torch.distributed): NCCL between GPUs, gloo between CPUs.

Process 0 leads: it plans, claims the runs, writes all files and reports. The others follow: they wait for its
packs and train them with it. What depends on files or on time is decided by process 0 and sent to the others
(`agree`), so that all take the same steps. benchmark/training/gathering.py has what they compute together.

A process that dies ends all: an exchange with it fails, or a launcher (torchrun, srun) ends the others. All
raise `ProcessLost` then. The same command goes on from the last checkpoints, also with another number of
processes.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from benchmark.errors import InputError

T = TypeVar("T")

TIMEOUT = datetime.timedelta(minutes=10)
"""How long a process waits in an exchange for the others before it gives up."""
CONFIRM_SECONDS = 20.0
"""How long a process with an error waits for the same error in the others."""
POLL_SECONDS = 0.1
"""Seconds between two looks at what process 0 has sent."""
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""The variables by which torchrun, or a Slurm job (slurm/rendezvous.py), says how the processes meet."""


_all_gather = getattr(dist, "all_gather_single", None) or getattr(dist, "all_gather_into_tensor", None)
"""The same function: PyTorch 2.13 has renamed it. None in a build without it, where `joined` fails."""


class ProcessLost(BaseException):
    """Another process of the pack has ended or failed alone, so this one cannot go on.

    It is no `Exception`, because no run of the pack is at fault: none is stored as failed.
    """


class Team:
    """One process alone. It leads, and what it agrees on is what it says."""

    number: int = 0
    """The number of this process."""
    count: int = 1
    """How many processes there are."""
    local_number: int = 0
    """The number of this process on its machine."""

    @property
    def leads(self) -> bool:
        return self.number == 0

    def gather(self, x: Tensor) -> Tensor:
        """Return the tensors of all processes, which have the same shape, as `[count, *shape]`."""
        return x[None]

    def sum_(self, x: Tensor) -> None:
        """Replace a tensor by its sum over all processes."""

    def copy_from_leader_(self, x: Tensor) -> None:
        """Replace a tensor by that of process 0."""

    def agree(self, value: T) -> T:
        """Return the value that process 0 gives, a JSON value."""
        return value

    @contextlib.contextmanager
    def leader_first(self) -> Iterator[None]:
        """Let process 0 do the block before the others, for what it may have to download or to build."""
        yield

    @contextlib.contextmanager
    def together(self, what: str) -> Iterator[None]:
        """Make sure that an error in the block occurs in all processes; else raise `ProcessLost`.

        The processes exchange tensors in the block, so one that left it alone would spoil all later
        exchanges. what: names the block; no other one has this name.
        """
        yield

    def call(self, command: Mapping[str, Any]) -> None:
        """Send a command to the processes that follow."""


class Joined(Team):
    """One of several processes."""

    def __init__(self, number: int, count: int, local_number: int, store: Any) -> None:
        """store: a `torch.distributed.Store`, through which the processes exchange words."""
        self.number, self.count, self.local_number = number, count, local_number
        self._store = store
        self._agreed = self._commands = 0
        self._entered: dict[str, int] = {}  # how often `together` was entered, by name

    @contextlib.contextmanager
    def _exchange(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            lines = str(error).strip().splitlines()
            raise ProcessLost(
                f"process {self.number} of {self.count} has lost the others "
                f"({lines[0] if lines else error}); the same command goes on from the last finished epoch"
            ) from error

    def gather(self, x: Tensor) -> Tensor:
        with self._exchange():
            assert _all_gather is not None
            out = x.new_empty(self.count * x.numel())
            _all_gather(out, x.contiguous().view(-1))
        return out.view(self.count, *x.shape)

    def sum_(self, x: Tensor) -> None:
        with self._exchange():
            dist.all_reduce(x)

    def copy_from_leader_(self, x: Tensor) -> None:
        with self._exchange():
            dist.broadcast(x, 0)

    def agree(self, value: T) -> T:
        key = f"agreed/{self._agreed}"
        self._agreed += 1
        if self.leads:
            self._set(key, value)
            return value
        result: T = self._wait_for(key)
        return result

    @contextlib.contextmanager
    def leader_first(self) -> Iterator[None]:
        if self.leads:
            yield
        self.agree(None)
        if not self.leads:
            yield

    @contextlib.contextmanager
    def together(self, what: str) -> Iterator[None]:
        times = self._entered[what] = self._entered.get(what, 0) + 1
        try:
            yield
        except Exception as error:
            if not self._confirmed(f"failed/{what}/{times}"):
                raise ProcessLost(
                    f"process {self.number} of {self.count} failed alone ({type(error).__name__}: "
                    f"{next(iter(str(error).splitlines()), '')}); the same command goes on from the last "
                    "finished epoch"
                ) from error
            raise

    def _confirmed(self, key: str) -> bool:
        """Return whether all processes come to this key within `CONFIRM_SECONDS`."""
        until = time.monotonic() + CONFIRM_SECONDS
        with self._exchange():
            number = self._store.add(key, 1)
            while number < self.count and time.monotonic() < until:
                time.sleep(POLL_SECONDS)
                number = self._store.add(key, 0)
        return bool(number >= self.count)

    def call(self, command: Mapping[str, Any]) -> None:
        self._set(f"command/{self._commands}", command)
        self._commands += 1

    def next_command(self) -> dict[str, Any] | None:
        """Wait for the next command of process 0. None after the last one."""
        command: dict[str, Any] = self._wait_for(f"command/{self._commands}")
        self._commands += 1
        return command or None

    def _set(self, key: str, value: Any) -> None:
        with self._exchange():
            self._store.set(key, json.dumps(value))

    def _wait_for(self, key: str) -> Any:
        """Return a value as soon as process 0 has set it. It may train or plan for hours before."""
        with self._exchange():
            while not self._store.check([key]):
                time.sleep(POLL_SECONDS)
            return json.loads(self._store.get(key))

    def end(self) -> None:
        """Leave the other processes, after process 0 has sent its last command."""
        with contextlib.suppress(ProcessLost):
            if self.leads:
                self.call({})
            self._confirmed("ended")  # process 0 holds what the others still read


def _prefixed(prefix: str, store: Any) -> Any:
    """Return the store with separate names for each prefix."""
    return dist.PrefixStore(prefix, store)  # type: ignore[attr-defined]


_team: Team = Team()


def current() -> Team:
    """Return the processes that train together with this one; one alone unless `joined` is in use."""
    return _team


def several_were_started(environment: Mapping[str, str]) -> bool:
    """Return whether a launcher has started this process as one of several that train together."""
    if not all(environment.get(name) for name in VARIABLES):
        return False
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT"):
        if not _is_number(environment[name]):
            raise InputError(f"{name}={environment[name]} is not a number; start by torchrun, or unset it")
    count = int(environment["WORLD_SIZE"])
    if count <= 1:
        return False
    for name, largest in (("RANK", count - 1), ("LOCAL_RANK", count - 1), ("MASTER_PORT", 65_535)):
        if int(environment[name]) > largest:
            raise InputError(
                f"{name}={environment[name]} is more than {largest}; start by torchrun, or unset it"
            )
    return True


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


@contextlib.contextmanager
def joined(device: str, environment: Mapping[str, str] | None = None) -> Iterator[Team]:
    """Join the processes that a launcher has started, within the block. Without a launcher, do nothing.

    device: `cpu` or `cuda`, on which all of them train. environment: with the launcher's `VARIABLES`; None
    for that of this process.
    """
    global _team
    environment = os.environ if environment is None else environment
    if not several_were_started(environment):
        yield _team
        return
    from torch.distributed.rendezvous import rendezvous  # not part of every build of PyTorch

    number, count, local = (int(environment[name]) for name in VARIABLES[:3])
    if device == "cuda" and torch.cuda.is_available():  # else `ExecutionRequest.resolve` says so
        torch.cuda.set_device(local % torch.cuda.device_count())
    os.environ.update({name: environment[name] for name in VARIABLES})  # where `rendezvous` reads them
    try:
        store, _, _ = next(rendezvous("env://", timeout=TIMEOUT))
        dist.init_process_group(
            "nccl" if device == "cuda" and torch.cuda.is_available() else "gloo",
            store=_prefixed("tensors", store),
            rank=number,
            world_size=count,
            timeout=TIMEOUT,
        )
    except (RuntimeError, ValueError) as error:
        raise ProcessLost(
            f"process {number} of {count} cannot reach the others at {environment['MASTER_ADDR']}, port "
            f"{environment['MASTER_PORT']} ({next(iter(str(error).splitlines()), '')})"
        ) from error
    team = Joined(number, count, local, _prefixed("words", store))
    _team = team
    try:
        yield team
    except ProcessLost:
        raise  # an exchange with the others would wait for them in vain
    except BaseException:
        team.end()
        raise
    else:
        team.end()
        dist.destroy_process_group()
    finally:
        _team = Team()
