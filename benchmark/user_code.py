"""Errors of code that users wrote: which are theirs, and how they are described in one line."""

from __future__ import annotations

import signal


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
