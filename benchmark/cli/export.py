"""export: weights and curves of runs in the formats of other programs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmark import data
from benchmark.cli import common, options
from benchmark.cli.output import print_note
from benchmark.cli.parser import add_verb
from benchmark.cli.run_names import named_keys
from benchmark.data.class_names import class_names
from benchmark.errors import InputError
from benchmark.export import curves, hub, weights
from benchmark.export.about import about
from benchmark.text import plural
from benchmark.training import finished
from results.store import Store

FORMATS = (*weights.SUFFIXES, "hf", *curves.FORMATS)


def register(verbs: Any) -> None:
    p = add_verb(
        verbs,
        "export",
        details="Writes the weights of finished runs as torch, safetensors, torchscript, onnx or hf (a "
        "folder for a model hub, with a model card made from the record), and the curves of finished and "
        "unfinished runs as csv, tensorboard, wandb (offline) or trackio. Each file of weights states "
        "normalisation, classes and origin, and is checked against the run's network before it is kept. "
        "Nothing is uploaded. Prints the paths of the files.",
        example="export resnet56:resnet20/kd/seed0 --to onnx",
    )
    p.add_argument(
        "runs", metavar="RUN", nargs="+", help="a run's key, or a part of it that matches only one run"
    )
    p.add_argument("--to", required=True, choices=FORMATS, metavar="FORMAT", help=", ".join(FORMATS))
    p.add_argument(
        "--epoch",
        default="last",
        choices=finished.EPOCHS,
        help="which weights: of the last epoch, or of the best one on the test set (default: last)",
    )
    p.add_argument("--all", action="store_true", help="every run that a RUN matches, not only a single one")
    options.add_out_option(p, "exports", "folder to write into; weights get a folder of the run's name in it")
    group = p.add_argument_group("folders")
    options.add_results_option(group)
    options.add_data_option(group)
    p.set_defaults(do=do_export)


def do_export(args: argparse.Namespace) -> int:
    store = common.store_to_read(args)
    of_curves = args.to in curves.FORMATS
    files = ("curve.csv",) if of_curves else ("record.json",)
    keys = named_keys(store, args.runs, files, every=args.all)
    out = common.writable(common.path_of(args.out), "--out")
    if of_curves:
        if args.epoch != "last":
            raise InputError(f"--epoch {args.epoch}: --to {args.to} writes whole curves; leave --epoch out")
        for path in curves.write([curves.read(store, key) for key in keys], args.to, out):
            print(path)
        print_note(f"{plural(len(keys), 'curve')} written{_next_step(args.to, out)}")
        return 0
    data.use_folder(common.path_of(args.data))
    for key in keys:
        print(_write_weights(args, store, key, out))
    return 0


def _write_weights(args: argparse.Namespace, store: Store, key: str, out: Path) -> Path:
    run = finished.load(store, key, args.epoch)
    facts = about(run, class_names(run.record["dataset"], common.path_of(args.data)))
    folder = out / curves.flat(key)
    if args.to == "hf":
        path = folder / f"hf-{args.epoch}"
        hub.write(run, path, facts)
    else:
        path = folder / f"{args.epoch}{weights.SUFFIXES[args.to]}"
        weights.write(run, args.to, path, facts)
    return path


def _next_step(to: str, out: Path) -> str:
    if to == "tensorboard":
        return f"; tensorboard --logdir {out / to}"
    return f"; wandb sync {out / to / 'wandb'}/offline-run-*" if to == "wandb" else ""
