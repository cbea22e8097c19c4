"""Workers of the drill: processes that run the command line, forked from one that has imported everything.

A fork takes milliseconds, so a drill spends its time on interruptions and not on importing torch.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import faults

from benchmark.__main__ import main
from benchmark.training import pack
from benchmark.work import waiting
from results import claims, holders

HERE = Path(__file__).resolve().parent
RUN = [
    *("run", str(HERE / "drill.toml"), "--profile", "quick", "--precision", "fp32", "--threads", "1"),
    *("--device", "cpu", "--set", "recipe.train_images=32", "--set", "recipe.test_images=20"),
    *("--set", "recipe.epochs=3"),
]
STALE_SECONDS = 2.0
"""How soon a worker counts as dead for one on another (pretended) machine."""


@dataclass
class Worker:
    """A process that runs one command."""

    pid: int
    log: Path
    code: int | None = None
    """Its exit code, or minus the signal that ended it; None while it runs."""
    stopped: bool = False
    """Whether it was suspended by SIGSTOP."""

    def poll(self) -> int | None:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG | os.WUNTRACED)
            if pid and os.WIFSTOPPED(status):
                self.stopped = True
            elif pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code

    def wait_until_stopped(self, seconds: float) -> bool:
        """Wait until it is suspended or has ended. Returns whether it is suspended."""
        until = time.monotonic() + seconds
        while self.poll() is None and not self.stopped and time.monotonic() < until:
            time.sleep(0.005)
        return self.stopped

    def wait(self, seconds: float) -> int | None:
        """Wait at most so long, and return the exit code, None if it still runs."""
        until = time.monotonic() + seconds
        while self.poll() is None and time.monotonic() < until:
            time.sleep(0.005)
        return self.code

    def send(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def text(self) -> str:
        """Return what it has printed."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""


@dataclass(frozen=True)
class Setting:
    """How a worker is started."""

    results: Path
    options: tuple[str, ...] = ()
    signal: int = 0
    stop_at: int = 0
    """It sends itself the signal just before this call of the file system; 0: never."""
    host: str = ""
    """Pretends to be on this machine, where others judge it by its heartbeat only."""
    count_to: Path | None = None
    """Writes the number of its calls of the file system to this file."""


started: list[Worker] = []
"""All workers, to end them with the drill."""


def start(setting: Setting, log: Path) -> Worker:
    """Start a worker. Its output is appended to `log`."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        started.append(Worker(pid, log))
        return started[-1]
    code = 70
    try:
        code = _work(setting, log)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 70
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _work(setting: Setting, log: Path) -> int:
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    null = os.open(os.devnull, os.O_RDONLY)
    for old, new in ((null, 0), (handle, 1), (handle, 2)):
        os.dup2(old, new)
    waiting.POLL_SECONDS = 0.1
    if setting.host:
        _pretend_to_be_on(setting.host)
    counter = faults.Counter(setting.results, setting.signal, setting.stop_at)
    code = main([*RUN, *setting.options, "--results", str(setting.results)])
    if setting.count_to is not None:
        setting.count_to.write_text(str(counter.calls))
    return code


def _pretend_to_be_on(host: str) -> None:
    machine = holders._machine()
    holders._machine = lambda: {**machine, "host": host}
    holders.STALE_SECONDS = STALE_SECONDS
    pack.heartbeat = lambda held: claims.heartbeat(held, every=STALE_SECONDS / 6)
