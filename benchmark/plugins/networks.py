"""The networks in the files of KD_PLUGINS.

A file defines a network in one of two ways:

- a class written like those in models/: a subclass of `models.Network` with a `name`, made by
  `Class(num_classes)`
- `network = models.NetworkByHooks(...)`, which names the sub-modules of any torch module whose outputs are
  its stages, embedding and logits (models/hooked.py)

A network is checked by one pass when a run first asks for its sizes (models/user_check.py). The hash of its
file is part of the key of the runs that use it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from types import ModuleType

from benchmark.errors import InputError
from benchmark.plugins import _files
from models import Network, NetworkByHooks, UserNetwork
from models.registry import NETWORKS

RESERVED = ("none", "imported", "teacher", "student", "plain")
"""Words that pairs, tables and keys use in place of a network's name."""


@_files.cached
def user_networks() -> Mapping[str, UserNetwork]:
    """Return the networks of all files by name. Raises `InputError` for one that is wrong."""
    networks: dict[str, UserNetwork] = {}
    for module in _files.modules():
        file = str(module.__file__)
        for name, build in _networks_in(module):
            if not isinstance(name, str) or not re.fullmatch("[A-Za-z][A-Za-z0-9_]*", name):
                raise InputError(f"{file}: a network is called {name!r}; allowed: letters, digits and _")
            if name in NETWORKS or name.lower() in RESERVED:
                raise InputError(f"{file}: the name {name} of a network is taken; give it another one")
            if name in networks:
                raise InputError(
                    f"two networks are called {name}: {networks[name].file} and {file}; rename one of them"
                )
            if inspect.isabstract(build):
                missing = ", ".join(sorted(getattr(build, "__abstractmethods__", ())))
                raise InputError(f"{file}: network {name} lacks {missing}; define them")
            networks[name] = UserNetwork(build, file=file, source=_files.source_hash(module))
    return networks


def _networks_in(module: ModuleType) -> Iterator[tuple[str, type[Network] | NetworkByHooks]]:
    """Yield name and constructor of each network that the module itself defines, without imported classes."""
    seen = set()
    for value in vars(module).values():
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, NetworkByHooks) or (
            isinstance(value, type)
            and issubclass(value, Network)
            and value.__module__ == module.__name__
            and value.name
        ):
            yield value.name, value
