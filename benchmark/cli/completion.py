"""completion: a script that completes verbs, options and names in a shell, made from the parser."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from benchmark import methods, plugins
from benchmark.cli.names import DATASETS, PROTOCOLS, Names
from benchmark.cli.output import print_note
from benchmark.cli.parser import add_verb
from benchmark.errors import InputError
from benchmark.spec import matrix, profiles
from models import names as network_names
from models.registry import NETWORKS
from slurm.cluster import cluster_names

SHELLS = ("bash", "zsh")

METHODS = Names((), methods.names)
NETWORK_NAMES = Names(NETWORKS, network_names)

_WORD = re.compile(r"[A-Za-z0-9_.:+-]+")


def register(verbs: Any) -> None:
    p = add_verb(
        verbs,
        "completion",
        details="Prints a shell script for the command kd-tables, which `pip install` makes. Load it in the "
        "start file of your shell. It knows the tables, networks, clusters and KD_PLUGINS of the moment when "
        "it was printed.",
        example='completion bash   # in ~/.bashrc: eval "$(kd-tables completion bash)"',
    )
    p.add_argument("shell", choices=SHELLS, metavar="SHELL", help="bash or zsh")
    p.set_defaults(do=lambda args: do_completion(args, verbs))


def do_completion(args: argparse.Namespace, verbs: Any) -> int:
    try:
        for names in (METHODS, NETWORK_NAMES, DATASETS, PROTOCOLS):
            names.find()
    except InputError as error:
        print_note(f"names of KD_PLUGINS are left out: {error}")
        for variable in plugins.VARIABLES:
            os.environ.pop(variable, None)
        methods.clear_cache()
    print(script(args.shell, verbs.choices), end="")
    return 0


def words(parser: argparse.ArgumentParser) -> list[str]:
    """Return what may follow a verb: its options, its sub-commands or choices, and tables."""
    found: list[str] = []
    for action in parser._actions:
        if action.help == argparse.SUPPRESS:
            continue
        found += [option for option in action.option_strings if option.startswith("--")]
        if not action.option_strings:
            if action.dest == "table":
                found += matrix.table_names()
            if action.dest == "method":
                found += METHODS()
            found += [str(choice) for choice in action.choices or ()]
    return _safe(found)


def _safe(names: Iterable[str]) -> list[str]:
    """Return the names once each, without those in which a shell would see more than a word.

    The name of a user's table may be anything.
    """
    return [name for name in dict.fromkeys(names) if _WORD.fullmatch(name)]


def values(parser: argparse.ArgumentParser) -> dict[str, list[str]]:
    """Return the values of the options of a verb that have names as values, and [] for files and folders."""
    known = {
        "--dataset": DATASETS(),
        "--profile": list(profiles.PROFILES),
        "--protocol": PROTOCOLS(),
        "--methods": METHODS(),
        "--network": NETWORK_NAMES(),
        "--cluster": list(cluster_names()),
        "--device": ["auto", "cpu", "cuda"],
        "--precision": ["auto", "fp32", "tf32", "bf16"],
    }
    found: dict[str, list[str]] = {}
    for action in parser._actions:
        for option in action.option_strings:
            if not option.startswith("--") or action.nargs == 0:
                continue
            names = [str(c) for c in action.choices] if action.choices else known.get(option)
            if names is not None or action.metavar == "DIR":
                found[option] = _safe(names or [])
    return found


def script(shell: str, verbs: Mapping[str, argparse.ArgumentParser]) -> str:
    """Return the script for a shell. verbs: the parser of each verb."""
    lines = "\n".join(_cases(verbs))
    body = _BODY.replace("@CASES@", lines).replace("@VERBS@", " ".join(verbs)).replace("@NAME@", NAME)
    return f"autoload -U +X bashcompinit && bashcompinit\n{body}" if shell == "zsh" else body


NAME = "kd-tables"


def _cases(verbs: Mapping[str, argparse.ArgumentParser]) -> Iterator[str]:
    """Yield cases of `VERB OPTION` for the values of options, and of `VERB ` for the words of a verb."""
    for verb, parser in verbs.items():
        for option, names in values(parser).items():
            action = f'words="{" ".join(names)}"' if names else "files=1"
            yield f'    "{verb} {option}") {action} ;;'
        rest = " ".join(words(parser))
        yield f'    "{verb} "*) words="{rest}"; files=1 ;;'


_BODY = """_kd_tables() {
  local current="${COMP_WORDS[COMP_CWORD]}" words="" files=""
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "@VERBS@ --help --version" -- "$current"))
    return
  fi
  case "${COMP_WORDS[1]} ${COMP_WORDS[COMP_CWORD-1]}" in
@CASES@
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
  if [ -n "$files" ] && [ ${#COMPREPLY[@]} -eq 0 ]; then
    compopt -o default 2>/dev/null || COMPREPLY=($(compgen -f -- "$current"))
  fi
}
complete -F _kd_tables @NAME@
"""
