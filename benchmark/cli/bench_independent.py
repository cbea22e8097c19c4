"""bench independent: the trainer against an independent loop."""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from pathlib import Path
from typing import Any

from benchmark import data
from benchmark.bench import independent
from benchmark.bench.independent import Comparison, Curve
from benchmark.cli import common, options, running
from benchmark.cli.bench_options import add_json_file_option, check, measurement, print_table
from benchmark.cli.output import print_note
from benchmark.cli.parser import add_verb
from benchmark.cli.selection import Selection, select
from benchmark.data.datasets import Dataset
from benchmark.errors import InputError
from benchmark.spec.runs import Run, TeacherRef
from benchmark.text import plural
from benchmark.training import kept_weights
from benchmark.training.reporter import Status
from models import Network
from results.store import Store
from tables.text import mean_std, signed

SIGNIFICANCE = 0.05

FOLDER = ".independent"
"""Folder below the results folder with the curves of the independent loop."""


def register(measurements: Any) -> None:
    p = add_verb(
        measurements,
        "independent",
        summary="the trainer against a plain loop that shares only networks and formulas with it",
        details="Trains the chosen rows of a table twice for each seed: by the trainer, as `run` does, and "
        "by a loop written as the papers' code is (PIL transforms, DataLoader, one student at a time, fp32), "
        "with its own random numbers. Compares accuracies and loss of the last epoch. Exits with 1 if a "
        "difference is significant. Both keep what they have trained, so the command can be repeated.",
        example="bench independent dlkd-table1 --profile paper --pairs resnet56:resnet20 --methods at,dlkd "
        "--seeds 3 --set recipe.epochs=4 --set recipe.train_images=10000",
    )
    options.add_selection_options(p)
    options.add_folder_options(p)
    options.add_training_options(p)
    add_json_file_option(p)
    p.add_argument(
        "--plot", default="", metavar="FILE", help="also plot the curves to this .png, .pdf or .svg"
    )
    p.set_defaults(do=do_independent, no_wait=False, notify="")


def do_independent(args: argparse.Namespace) -> int:
    check(argparse.Namespace(json=args.json, plot=args.plot))
    chosen = select(args)
    runs = _trainable(chosen)
    few = [label for label, of_label in runs.items() if len(of_label) < 2]
    if few:
        raise InputError(f"--seeds: {', '.join(few)} has one seed; give 2 or more, or there is no spread")
    wanted = tuple(run for of_label in runs.values() for run in of_label)
    outcomes = running.train_missing(args, dataclasses.replace(chosen, runs=wanted))
    if bad := [o for o in outcomes if o.status != Status.DONE]:
        raise InputError(f"{bad[0].run.key} {bad[0].status}: {bad[0].reason or 'see `logs`'}")
    store = common.store_of(args)
    with measurement(args, with_precision=True) as (execution, report):
        curves = {}
        inputs = _Inputs(store, common.path_of(args.data), execution.torch_device)
        for label, of_label in runs.items():
            trainer = [independent.recorded_curve(store, run) for run in of_label]
            curves[label] = (trainer, [_train(run, inputs) for run in of_label])
        rows = [c for label, pair in curves.items() for c in independent.compare(label, *pair)]
        report["independent"] = {
            "settings": {label: of_label[0].settings for label, of_label in runs.items()},
            "curves": {
                label: {
                    name: [dataclasses.asdict(c) for c in loop]
                    for name, loop in zip(("trainer", "independent"), pair, strict=True)
                }
                for label, pair in curves.items()
            },
            "comparisons": [{**dataclasses.asdict(c), "delta": c.delta, "welch": c.welch()} for c in rows],
        }
        if args.plot:
            independent.plot(curves, Path(args.plot))
        return _print(chosen, curves, rows)


def _trainable(chosen: Selection) -> dict[str, list[Run]]:
    """Return the runs of each row that both loops can train, by pair and label. Names the other rows."""
    runs: dict[str, list[Run]] = {}
    selected = {run.key for run in chosen.runs}
    for cell in chosen.expansion.cells:
        of_cell = [r for r in cell.runs if r.key in selected and r.evaluates is None]
        if not of_cell or cell.row.method == "teacher":
            continue
        if reason := independent.why_not(of_cell[0]):
            print_note(f"left out: {cell.row.label}: the independent loop cannot train it, because {reason}")
        else:
            runs[f"{cell.pair[1]}: {cell.row.label}"] = of_cell
    if not runs:
        raise InputError("the independent loop can train none of these rows; choose others by --methods")
    if len({label.partition(": ")[0] for label in runs}) == 1:
        return {label.partition(": ")[2]: of_label for label, of_label in runs.items()}
    return runs


@dataclasses.dataclass
class _Inputs:
    """What the runs share: each data set and each teacher is loaded once."""

    store: Store
    data_folder: Path
    device: Any
    datasets: dict[str, Dataset] = dataclasses.field(default_factory=dict)
    """By name."""
    teachers: dict[str, Network] = dataclasses.field(default_factory=dict)
    """By identity."""

    def dataset(self, name: str) -> Dataset:
        if name not in self.datasets:
            loaded = data.load(name, self.data_folder)
            if loaded.train.source:
                raise InputError(
                    f"the independent loop needs images in memory, and those of {name} are streamed"
                )
            self.datasets[name] = loaded
        return self.datasets[name]

    def teacher(self, ref: TeacherRef | None, dataset: str) -> Network | None:
        if ref is None:
            return None
        if ref.identity not in self.teachers:
            net, _ = kept_weights.load_teacher(ref, dataset, self.store)
            self.teachers[ref.identity] = net.to(self.device)
        return self.teachers[ref.identity]


def _train(run: Run, inputs: _Inputs) -> Curve:
    def note(epoch: int, curve: Curve) -> None:
        print_note(
            f"independent loop: {run.method} seed {run.seed}, epoch {epoch} of {run.recipe.epochs}: "
            f"train {curve.train_acc[-1]:.2f}, test {curve.test_acc[-1]:.2f}"
        )

    return independent.train(
        run,
        inputs.dataset(run.dataset),
        inputs.teacher(run.teacher_ref, run.dataset),
        device=inputs.device,
        folder=inputs.store.folder / FOLDER,
        on_epoch=note,
    )


def _print(
    chosen: Selection, curves: dict[str, tuple[list[Curve], list[Curve]]], rows: list[Comparison]
) -> int:
    """Print the mean curves and the comparisons. Returns 1 if a difference is significant, else 0."""
    for measure, field in independent.MEASURES.items():
        unit = "" if field == "loss" else ", in percent"
        print(f"\n{measure} by epoch, mean over seeds{unit}")
        body = []
        for label, pair in curves.items():
            for name, loop in zip(("trainer", "independent"), pair, strict=True):
                lines = [getattr(c, field) for c in loop]
                if all(lines):
                    means = [statistics.fmean(values) for values in zip(*lines, strict=True)]
                    body.append([label, name, *(f"{mean:.2f}" for mean in means)])
        epochs = max((len(row) - 2 for row in body), default=0)
        print_table(body, ["row", "loop", *(f"epoch {i}" for i in range(1, epochs + 1))])
    print("\nafter the last epoch")
    tests = [(c, *c.welch()) for c in rows]
    print_table(
        [
            [
                c.method,
                c.measure,
                mean_std(statistics.fmean(c.trainer), statistics.stdev(c.trainer)),
                mean_std(statistics.fmean(c.independent), statistics.stdev(c.independent)),
                signed(c.delta),
                f"{signed(low)} to {signed(high)}",
                f"{p:.2f}",
            ]
            for c, low, high, p in tests
        ],
        ["row", "measure", "trainer", "independent", "difference", "95% interval", "p"],
    )
    least = min((p for *_, p in tests), default=1.0)
    significant = least * len(tests) < SIGNIFICANCE
    seeds = plural(len(next(iter(curves.values()))[0]), "seed")
    print(
        f"{seeds} of each loop, not paired: they share no random number; mean ± std; p: Welch's t test\n"
        f"{plural(len(tests), 'test')}: the least p, {least:.3f}, "
        f"{'IS BELOW' if significant else 'is not below'} {SIGNIFICANCE} / {len(tests)} (Bonferroni)"
    )
    return int(significant)
