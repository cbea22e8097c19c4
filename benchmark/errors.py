"""The error for wrong input; a command that raises it exits with code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """The input is wrong. The message is one line that says what is wrong and what to do instead.

    The command line prints it and exits with code 2.
    """


def require_one_line(text: str, what: str, remedy: str = "remove it") -> None:
    """Raise `InputError` if a text would break lines, or steer a terminal, where it is printed or written.

    what: whose text it is, for the message. remedy: what to do.
    """
    if any("\udc80" <= character <= "\udcff" for character in text):  # bytes that Python could not decode
        raise InputError(
            f"{what} is not text in the encoding of this terminal; {remedy}, or set PYTHONUTF8=1"
        )
    if not text.isprintable():
        raise InputError(f"{what} contains a line break or control character; {remedy}")


def unknown(kind: str, name: str, allowed: Iterable[str], remark: str = "") -> InputError:
    """Return an `InputError` for a name that is not one of `allowed`.

    The message lists the allowed names and suggests the most similar one. remark: is added at its end.
    """
    names = list(allowed)
    listed = ", ".join(names) or "none"
    return InputError(f"unknown {kind} '{name}'{hint(name, names)}; allowed: {listed}{remark}")


def hint(name: str, known: Iterable[str]) -> str:
    """Return ` (did you mean X?)` with the known name most similar to `name`, "" if none is similar."""
    similar = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {similar[0]}?)" if similar else ""
