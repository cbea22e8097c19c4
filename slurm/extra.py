"""Further options of sbatch in a cluster file: `extra = { reservation = "kd", exclusive = true }`.

They are checked when the file is read. An option that has a field, or that kd-tables sets to follow its jobs,
would silently win over the field or break the jobs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from benchmark.errors import InputError, require_one_line

MEMORY_OPTIONS = ("mem-per-cpu", "mem-per-gpu")
"""They replace `memory_gb`: sbatch accepts only one of the three."""

_FIELDS = {
    "time": "time_minutes",
    "signal": "signal_delay_s",
    "cpus-per-task": "cpus",
    "cpus-per-gpu": "cpus",
    "mem": "memory_gb",
    "gpus": "gpus and gpu_type",
    "gpus-per-node": "gpus and gpu_type",
    "gpus-per-socket": "gpus and gpu_type",
    "gpus-per-task": "gpus and gpu_type",
    **dict.fromkeys(("nodes", "use-min-nodes"), "nodes"),
    **dict.fromkeys(
        ("ntasks", "ntasks-per-node", "ntasks-per-core", "ntasks-per-gpu", "ntasks-per-socket"), "processes"
    ),
    **{k: k for k in ("partition", "account", "qos", "constraint", "exclude", "wckey")},
}
"""Option -> the fields that set it."""

_FOLLOWED = "kd-tables sets it for every job, to follow the job"
_REFUSED = {
    **dict.fromkeys(
        (
            "array", "dependency", "requeue", "no-requeue", "kill-on-invalid-dep", "job-name", "output",
            "error", "open-mode", "wrap", "parsable", "wait", "hold", "chdir", "export", "export-file",
            "input", "test-only", "quiet", "help", "version", "usage", "clusters",
        ),
        _FOLLOWED,
    ),
}  # fmt: skip
"""Option -> why it may not be set."""

_KNOWN = frozenset(
    """
    account acctg-freq array batch bb bbf begin chdir cluster-constraint clusters comment constraint
    container container-id contiguous core-spec cores-per-socket cpu-freq cpus-per-gpu cpus-per-task
    deadline delay-boot dependency distribution error exclude exclusive export export-file extra
    extra-node-info get-user-env gid gpu-bind gpu-freq gpus gpus-per-node gpus-per-socket gpus-per-task
    gres gres-flags help hint hold ignore-pbs input job-name kill-on-invalid-dep licenses mail-type
    mail-user mcs-label mem mem-bind mem-per-cpu mem-per-gpu mincpus network nice no-kill no-requeue
    nodefile nodelist nodes ntasks ntasks-per-core ntasks-per-gpu ntasks-per-node ntasks-per-socket
    oom-kill-step open-mode output overcommit oversubscribe parsable partition power prefer priority
    profile propagate qos quiet reboot requeue reservation resv-ports segment signal sockets-per-node
    spread-job stepmgr switches test-only thread-spec threads-per-core time time-min tmp tres-bind
    tres-per-task uid umask usage use-min-nodes verbose version wait wait-all-nodes wckey wrap
    """.split()  # noqa: SIM905
)
"""The long options of sbatch 22.05 to 25.05. Others are passed on: a site's plugins may add some."""

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def checked(file: str, extra: Mapping[str, Any]) -> dict[str, str | bool]:
    """Return the options by their long names without dashes in front. True is an option without a value.

    file: name of the cluster file, for messages. Raises `InputError`.
    """
    options: dict[str, str | bool] = {}
    for key, value in extra.items():
        name = _option(file, key)
        if name in options:
            raise InputError(f"{file}: extra contains {name} twice; remove one of them")
        options[name] = _value(file, key, value)
    for name in ("gres", "tres-per-task"):
        value = str(options.get(name, ""))
        if any(re.match(r"\s*(gres[/:])?gpu\b", part) for part in value.split(",")):
            raise InputError(
                f"{file}: extra contains {name} = {value!r}; use the fields gpus and gpu_type for GPUs"
            )
    if len(memory := [name for name in MEMORY_OPTIONS if name in options]) > 1:
        raise InputError(f"{file}: extra contains {' and '.join(memory)}; sbatch accepts only one of them")
    return options


def _option(file: str, key: str) -> str:
    """Return the long name of an option. Raises `InputError` if it may not be set."""
    name = key.strip().lstrip("-").replace("_", "-").lower()
    if len(name) == 1:
        raise InputError(f"{file}: extra contains {key}; write the long name of the option (`man sbatch`)")
    if not _NAME.fullmatch(name):
        raise InputError(f"{file}: extra contains {key!r}, which is not the name of an option of sbatch")
    known = name
    if name not in _KNOWN:  # sbatch also accepts the beginning of a name, if it is the beginning of one alone
        meant = [option for option in _KNOWN if option.startswith(name)]
        known = meant[0] if len(meant) == 1 else name
    if known in _FIELDS:
        raise InputError(f"{file}: extra contains {key}; use {_field_words(_FIELDS[known])} instead")
    if known in _REFUSED:
        raise InputError(f"{file}: extra contains {key}, but {_REFUSED[known]}; remove it")
    return known


def _field_words(fields: str) -> str:
    return f"the {'fields' if ' and ' in fields else 'field'} {fields}"


def _value(file: str, key: str, value: Any) -> str | bool:
    """Return the value as sbatch reads it. Raises `InputError`."""
    if value is True or value == "true":
        return True
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise InputError(
            f"{file}: extra: {key} = {value!r} has the wrong type; allowed: a string, a whole number, "
            "or true for an option without a value"
        )
    require_one_line(value, f"{file}: extra: {key}")
    return value
