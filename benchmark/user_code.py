"""Errors of code that users wrote: which are theirs, and how they are described in one line."""

from __future__ import annotations

import contextlib
import functools
import signal
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from benchmark.errors import InputError

F = TypeVar("F", bound=Callable[..., Any])


class RunCodeError(Exception):
    """Code that belongs to one run, its network or its measure, has failed. The message is one line."""


@contextlib.contextmanager
def code_of_one_run(what: str) -> Iterator[Callable[[F], F]]:
    """Turn an `InputError` or `OSError` of the block into a `RunCodeError`, which ends this run alone.

    The trainer would otherwise take it for an error of the command or of the pack's files, which ends all
    runs. what: whose code the block calls, such as `measure 'knn'`, for the message.

    Yields a function that wraps our functions which that code calls in turn. Their errors pass unchanged.
    """
    ours: list[BaseException] = []

    def passing(function: F) -> F:
        @functools.wraps(function)
        def wrapped(*args: Any, **values: Any) -> Any:
            try:
                return function(*args, **values)
            except BaseException as error:
                ours.append(error)
                raise

        return wrapped  # type: ignore[return-value]

    try:
        yield passing
    except (InputError, OSError) as error:
        if any(error is other for other in ours) or not is_of_the_user_code(error):
            raise
        text = str(error) if isinstance(error, InputError) else described(error)
        raise RunCodeError(f"{what}: {text}") from error


def is_of_the_user_code(error: BaseException) -> bool:
    """Return whether the code that was called raised the error, and not the user or the system.

    Not so for Ctrl-C, and for what the handler of a signal raises, such as `sys.exit` when a job must end.
    """
    return not isinstance(error, KeyboardInterrupt) and not _is_from_a_signal(error)


def described(error: BaseException) -> str:
    """Return kind and text of an error; of a text of several lines, the first."""
    text = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _is_from_a_signal(error: BaseException) -> bool:
    """Return whether the handler of a signal raised the error, for example `sys.exit` when a job must end."""
    handlers = {getattr(signal.getsignal(s), "__code__", None) for s in signal.valid_signals()}
    handlers |= {
        getattr(getattr(signal.getsignal(s), "__func__", None), "__code__", None)
        for s in signal.valid_signals()
    }
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code in handlers:
            return True
        trace = trace.tb_next
    return False
