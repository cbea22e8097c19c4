"""The names that help lists and that a shell completes: built-in ones, and those of KD_PLUGINS.

They are looked up when the help is printed, not when the option is defined: the files of KD_PLUGINS are
imported for it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from typing import Any

from benchmark import data
from benchmark.errors import InputError
from benchmark.spec import protocols


class Names:
    """The names of one kind. As text, they are separated by commas."""

    def __init__(self, built_in: Iterable[str], find: Callable[[], Iterable[str]]) -> None:
        self.built_in = tuple(built_in)
        self.find = find

    def __call__(self) -> tuple[str, ...]:
        """Return all names; the built-in ones alone if the user's files are wrong.

        A command that needs the files reports what is wrong; `--help` must not fail for it.
        """
        try:
            return tuple(self.find())
        except InputError:
            return self.built_in

    def __str__(self) -> str:
        return ", ".join(self())


DATASETS = Names(data.DATASETS, data.names)
PROTOCOLS = Names(protocols.PROTOCOLS, protocols.names)


class NameOption(argparse.Action):
    """An option whose value is one of `names`, which `%(names)s` in its help stands for.

    The value is not checked here, because the verb's message suggests a similar name.
    """

    def __init__(self, *args: Any, names: Names, **options: Any) -> None:
        self.names = names
        super().__init__(*args, **options)

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, value: Any, _: Any = None
    ) -> None:
        setattr(namespace, self.dest, value)
