"""The options that several verbs share."""

from __future__ import annotations

import argparse
import os
from typing import Any

from benchmark.spec import matrix, profiles
from benchmark.text import decimal, whole

KEEP = ("all", "none")
"""Values of `--keep`."""


def whole_number(text: str) -> int:
    """The type of an option that is a whole number."""
    try:
        return whole(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def decimal_number(text: str) -> float:
    """The type of an option that is a number."""
    try:
        return decimal(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def variable(name: str, default: str = "") -> str:
    """Return an environment variable, or the default if it is not set or empty."""
    return os.environ.get(name) or default


def add_results_option(group: Any) -> None:
    group.add_argument(
        "--results",
        default=None,
        metavar="DIR",
        help="folder of runs and their records (default: $RESULTS, else results/runs)",
    )


def add_out_option(group: Any, default: str, what: str) -> None:
    """Add `--out`. what: what the folder is for, for the help."""
    group.add_argument("--out", default=default, metavar="DIR", help=f"{what} (default: {default})")


def add_data_option(group: Any) -> None:
    group.add_argument(
        "--data",
        default=variable("DATA", "data"),
        metavar="DIR",
        help="folder of data sets; missing ones are downloaded (default: $DATA, else data)",
    )


def add_folder_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("folders")
    add_results_option(group)
    add_data_option(group)
    group.add_argument(
        "--teachers",
        default=variable("TEACHERS"),
        metavar="DIR",
        help="folder of checkpoints, or one file, to use as teachers instead of training them "
        "(default: $TEACHERS)",
    )
    group.add_argument(
        "--network",
        default="",
        metavar="NAME",
        help="the network of a checkpoint in TEACHERS= if its file name does not say it and its weights fit "
        "several",
    )


def add_selection_options(
    parser: argparse.ArgumentParser,
    table: bool = True,
    single_runs: bool = True,
    default_profile: str = "paper with a GPU, quick without",
) -> None:
    """Add the options that `selection.select` reads.

    table: whether to add the argument TABLE. single_runs: whether to add `--only`; verbs that show whole
    cells cannot select single runs. default_profile: the default of `--profile`, in words.
    """
    if table:
        names = ", ".join(matrix.table_names())
        parser.add_argument("table", metavar="TABLE", help=f"a .toml file, or one of {names}")
    group = parser.add_argument_group("which runs")
    group.add_argument(
        "--profile",
        default=variable("PROFILE") or None,
        help=f"{', '.join(profiles.PROFILES)} (default: $PROFILE, else {default_profile})",
    )
    group.add_argument(
        "--protocol",
        default=variable("PROTOCOL") or None,
        help="train under this protocol instead of the table's own; the results are then not comparable "
        "with the published values (default: $PROTOCOL)",
    )
    group.add_argument(
        "--seeds",
        default=variable("SEEDS") or None,
        metavar="N|A,B,..",
        help="3: the seeds 0, 1 and 2; 0,3,7: these seeds; 5, with a comma: only seed 5 "
        "(default: $SEEDS, else those of the table and profile)",
    )
    group.add_argument(
        "--pairs", default=None, metavar="T:S,..", help="only these teacher:student pairs (default: all)"
    )
    group.add_argument(
        "--methods",
        default=None,
        metavar="M,..",
        help="only these methods; those without a row in the table are added to it, and the rows Teacher and "
        "Student always stay (default: all)",
    )
    if single_runs:
        group.add_argument(
            "--only",
            default=None,
            metavar="PATTERN",
            help="only runs whose key contains this text or matches this shell pattern",
        )
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        dest="settings",
        help="change a hyper-parameter, e.g. kd.temperature=8, ce=0.5 or recipe.epochs=10; can be repeated; "
        "runs with other settings have different keys and records",
    )


def add_arithmetic_options(group: Any) -> None:
    """Add the options that `common.arithmetic_of` reads."""
    add_device_option(group)
    add_precision_option(group)
    add_threads_option(group)
    group.add_argument(
        "--student-threads",
        type=whole_number,
        default=variable("STUDENT_THREADS", "1"),
        metavar="N",
        help="CPU threads for one student's step; THREADS / N students are trained side by side "
        "(default: $STUDENT_THREADS, else 1)",
    )


def add_device_option(group: Any) -> None:
    group.add_argument(
        "--device", default=variable("DEVICE", "auto"), help="auto, cpu, cuda (default: $DEVICE, else auto)"
    )


def add_precision_option(group: Any) -> None:
    group.add_argument(
        "--precision",
        default=variable("PRECISION", "auto"),
        help="auto, fp32, tf32, bf16; recorded with each result, not part of a run's key "
        "(default: $PRECISION, else auto)",
    )


def add_threads_option(group: Any) -> None:
    group.add_argument(
        "--threads",
        type=whole_number,
        default=variable("THREADS", "0"),
        metavar="N",
        help="number of CPU threads; 0 leaves it to torch (default: $THREADS, else 0)",
    )


def add_training_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how to train")
    add_arithmetic_options(group)
    add_pack_option(group, default="16 on a CPU, 32 on a GPU")
    add_keep_option(group)
    add_teacher_cache_option(group)
    add_accept_edit_option(group)
    add_weak_teacher_option(group)


def add_pack_option(group: Any, default: str) -> None:
    """Add `--pack`. default: the default size, in words."""
    group.add_argument(
        "--pack",
        type=whole_number,
        default=0,
        metavar="N",
        help=f"train at most N runs behind one teacher pass (default: {default})",
    )


def add_keep_option(group: Any) -> None:
    group.add_argument(
        "--keep",
        default=variable("KEEP", "all"),
        choices=KEEP,
        help="which weights of finished runs to keep; none still keeps those that other runs need: "
        "plain teachers and students, self-supervised networks, teachers' heads, and networks that the "
        "table measures (default: $KEEP, else all)",
    )


def add_weak_teacher_option(group: Any) -> None:
    group.add_argument(
        "--accept-weak-teacher",
        action="store_true",
        help="train with an imported teacher although its accuracy is near chance (profiles short and paper "
        "refuse it)",
    )


def add_notify_option(group: Any, default: str) -> None:
    """Add `--notify`. default: the default, in words."""
    group.add_argument(
        "--notify",
        default=variable("NOTIFY"),
        metavar="COMMAND",
        help="run this shell command when the table is done or has failed; the variables KD_TABLE, KD_STATE, "
        f"KD_RUNS, KD_DONE, KD_FAILED and others say what happened (default: $NOTIFY{default})",
    )


def add_teacher_cache_option(group: Any) -> None:
    group.add_argument(
        "--teacher-cache",
        default=variable("TEACHER_CACHE", "auto"),
        metavar="auto|on|off",
        help="store the teacher's logits and embeddings of all 162 crops and flips of each image, and read "
        "them instead of running the teacher; auto: in bf16, where this saves teacher passes "
        "(default: $TEACHER_CACHE, else auto)",
    )


def add_accept_edit_option(group: Any) -> None:
    group.add_argument(
        "--accept-edit",
        action="store_true",
        help="go on with unfinished runs although the file of your method, or their teacher, has changed; "
        "their records state both versions",
    )
