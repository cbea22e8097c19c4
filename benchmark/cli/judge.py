"""judge: is somebody's number a reproduction of the published one?"""

from __future__ import annotations

import argparse
import glob
import math
import warnings
from typing import Any

import pandas as pd

from benchmark.cli import common, options
from benchmark.cli.names import PROTOCOLS, NameOption
from benchmark.cli.output import print_json, print_note
from benchmark.cli.parser import add_json_option, add_verb
from benchmark.cli.published import published_cell
from benchmark.cli.tables import join
from benchmark.errors import InputError
from benchmark.spec import protocols
from benchmark.spec.runs import NONE
from benchmark.text import decimal, plural
from results import imported_logs
from results.logs import Log, LogError, read
from results.store import REFERENCE, Store, load, record_files
from tables import judge, judge_text
from tables.judge_target import DATASET, Question, Target, target_of
from tables.verdicts import FAILING


def register(verbs: Any) -> None:
    p = add_verb(
        verbs,
        "judge",
        details="Prints on one screen the published values of a pair and a method, what others got, the "
        "verdict on your values by the rule of `diff`, and the usual causes of a gap, with their measured "
        "sizes. Exits with 1 if your result differs from the published one. Only for CIFAR-100.",
        example="judge resnet32x4:resnet8x4 dkd 76.2 75.8 75.89 --epoch best --protocol mdistiller",
    )
    p.add_argument("pair", metavar="PAIR", help="teacher:student, e.g. resnet32x4:resnet8x4")
    p.add_argument("method", metavar="METHOD", help="a method, e.g. kd or crd+kd; or student")
    p.add_argument("values", nargs="*", metavar="VALUE", help="your top-1 in %%, one value for each seed")
    p.add_argument(
        "--epoch",
        default="",
        choices=("last", "best"),
        help="the epoch of the values (default: not known, so the verdict holds for both)",
    )
    p.add_argument(
        "--protocol", action=NameOption, names=PROTOCOLS, default="", help="how they were trained: %(names)s"
    )
    p.add_argument(
        "--teacher-top1",
        default=None,
        metavar="X",
        help="top-1 in %% of the teacher that you used",
    )
    p.add_argument(
        "--their-code",
        action="store_true",
        help="the runs are of the code that the publisher released; with the same teacher's top-1, nothing "
        "but the seeds may differ",
    )
    p.add_argument(
        "--log",
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        dest="logs",
        help="read the values from training logs, one for each seed: output of RepDistiller, mdistiller's "
        "worklog.txt, CTKD's JSON, torchdistill's log, tensorboard's event files",
    )
    p.add_argument(
        "--import",
        action="store_true",
        dest="import_logs",
        help="keep the logs in the results folder: diff and report then name them, as not ours; needs "
        "--protocol",
    )
    options.add_results_option(p)
    add_json_option(p)
    p.set_defaults(do=do_judge)


def do_judge(args: argparse.Namespace) -> int:
    teacher, student, method = _cell(args)
    if args.protocol:
        protocols.get_protocol(args.protocol)
    question = Question(
        teacher=teacher,
        student=student,
        method=method,
        values=_values(args),
        epoch=args.epoch,
        logs=_logs(args),
        protocol=args.protocol,
        teacher_top1=None if args.teacher_top1 is None else percent(args.teacher_top1, "--teacher-top1"),
        their_code=args.their_code,
    )
    store = common.store_of(args) if args.import_logs else common.store_to_read(args)
    target = target_of(question)
    answer = judge.answer(question, target, records_of_cell(store, question, target.method))
    if args.import_logs:
        _import(store, question, target)
        answer = judge.answer(question, target, records_of_cell(store, question, target.method))
    if args.json:
        print_json(judge_text.as_json(answer))
    else:
        print(judge_text.format_answer(answer))
    return int(answer.verdict in FAILING)


def _cell(args: argparse.Namespace) -> tuple[str, str, str]:
    """Return teacher, student and method. Raises `InputError` for names that nobody knows, and a teacher."""
    named = argparse.Namespace(pair=args.pair, method=args.method, dataset=DATASET, metric="top1")
    teacher, student, method, _ = published_cell(named)
    if method == "teacher":
        raise InputError(
            "judge compares students; published --pair T:S --method teacher prints what is known of a teacher"
        )
    return teacher, student, method


def percent(text: str, what: str) -> float:
    """Return a top-1 in percent. Raises `InputError` for anything but a number from 0 to 100."""
    try:
        value = decimal(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 100:
        raise InputError(f"{what} '{text}' is not a top-1 in percent; allowed: 0 to 100")
    if 0 < value < 1:
        raise InputError(f"{what} '{text}' looks like a fraction; give percent, e.g. {100 * value:g}")
    return value


def _values(args: argparse.Namespace) -> tuple[float, ...]:
    if bool(args.values) == bool(args.logs):
        raise InputError("give values or --log FILE, one of the two")
    if args.logs and args.epoch:
        raise InputError("--epoch cannot be combined with --log, because a log has both epochs")
    if args.import_logs and not (args.logs and args.protocol):
        raise InputError("--import needs --log FILE and --protocol NAME")
    return tuple(percent(text, "value") for text in args.values)


def _logs(args: argparse.Namespace) -> tuple[Log, ...]:
    """Return the trainings of all files; of a file that is given twice, only once."""
    paths = dict.fromkeys(common.path_of(text) for text in args.logs)
    try:
        return tuple(log for path in paths for log in read(path))
    except LogError as error:
        raise InputError(str(error)) from None


def records_of_cell(store: Store, q: Question, method: str) -> pd.DataFrame:
    """Return the records of the cell under any protocol and profile: ours, reference, imported logs.

    method: as our runs name it.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        logs = imported_logs.load(store.folder)
        records = load(store.folder, reference=True, keys=_keys_of_cell(store, q, method))
    for w in caught:
        print_note(f"skipped: {w.message}")
    same = (logs["teacher"] == q.teacher) & (logs["student"] == q.student) & (logs["method"] == method)
    return join(records, logs[same])


def _keys_of_cell(store: Store, q: Question, method: str) -> set[str]:
    """Return the keys below the folders that runs of the cell have, without reading any other record."""
    teacher, name = (NONE, "plain") if method == "student" else (q.teacher, method)
    return {
        path.parent.relative_to(folder).as_posix()
        for folder in (store.folder, REFERENCE)
        for cell in (folder / DATASET).glob(f"*/*/{teacher}-{q.student}/{glob.escape(name)}")
        for path in record_files(cell)
    }


def _import(store: Store, q: Question, target: Target) -> None:
    """Write records of the complete logs."""
    complete = [log for log in q.logs if log.is_complete(target.epochs)]
    folder = common.writable(store.folder, "--results")
    for log in complete:
        imported_logs.write(
            folder,
            log,
            dataset=DATASET,
            protocol=q.protocol,
            teacher=q.teacher,
            student=q.student,
            method=target.method,
        )
    print_note(f"imported {plural(len(complete), 'log')} into {folder / imported_logs.FOLDER}")
