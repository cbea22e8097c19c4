"""Calling the functions of a method: an error names the method and the function, and ends its run alone."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol, TypeVar

from benchmark.user_code import described, is_of_the_user_code

T = TypeVar("T")


class MethodError(Exception):
    """A method is wrong. The message is one line that names the method and the function that was called."""

    def __init__(self, method: str, hook: str, problem: str) -> None:
        """hook: the function that was called, such as `loss`. problem: what is wrong, and what to do."""
        super().__init__(f"method '{method}', {hook}: {problem}")
        self.method, self.hook = method, hook


class Leak(MethodError):
    """A method changed something that other runs use too."""

    def __init__(self, method: str, hook: str, problem: str, restored: bool = True) -> None:
        """restored: whether it was put back, or can be (values of tensors are, by the trainer)."""
        super().__init__(method, hook, problem)
        self.restored = restored


class Watch(Protocol):
    """Checks what a function of a method leaves behind (see benchmark/training/guard.py)."""

    def before(self) -> Any:
        """Called before the function. Returns what `after` compares with."""

    def after(self, method: str, hook: str, before: Any) -> None:
        """Called after the function. Raises `Leak` if the function changed what is not its run's."""


class NoWatch:
    """Checks nothing."""

    def before(self) -> None: ...
    def after(self, method: str, hook: str, before: Any) -> None: ...


def call(watch: Watch, method: type[Any], hook: str, function: Callable[..., T], *args: Any) -> T:
    """Return `function(*args)`, the function `hook` of a method of this class.

    Raises `MethodError` for every error in it, `SystemExit` included, and `Leak` for what `watch` finds.
    Passes on a `KeyboardInterrupt`, and what the handler of a signal raises.
    """
    before = watch.before()
    try:
        result = function(*args)
    except BaseException as error:
        if not is_of_the_user_code(error):
            raise
        watch.after(method.name, hook, before)
        raise as_method_error(method, hook, error) from error
    watch.after(method.name, hook, before)
    return result


def as_method_error(method: type[Any], hook: str, error: BaseException) -> MethodError:
    """Return the error as one that names the method, its function, and the line in the method's file."""
    if isinstance(error, MethodError):
        return error
    file = getattr(sys.modules.get(method.__module__), "__file__", None)
    return MethodError(method.name, hook, described(error) + _line(error.__traceback__, file))


def _line(trace: TracebackType | None, file: str | None) -> str:
    """Return ` (NAME, line N)` for the innermost frame in this file; "" if there is none."""
    line = ""
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == file:
            line = f" ({file.rpartition('/')[2]}, line {trace.tb_lineno})"
        trace = trace.tb_next
    return line
