"""evaluate: the accuracy of any checkpoint, or of a finished run's weights."""

from __future__ import annotations

import argparse
import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import models
from benchmark import data
from benchmark.cli import common, options
from benchmark.cli.names import DATASETS, NameOption
from benchmark.cli.output import print_json, print_note, print_text
from benchmark.cli.parser import add_json_option, add_verb
from benchmark.cli.run_names import find_key, is_file_name, matches
from benchmark.errors import InputError, unknown
from benchmark.export import about
from benchmark.spec import imported, protocols
from benchmark.spec.resolver import Resolver, normalisation
from benchmark.spec.runs import TeacherRef
from benchmark.spec.teacher_files import CHECKPOINTS
from benchmark.training import finished, kept_weights
from benchmark.training.evaluate import logits, per_class, score
from benchmark.training.execution import Execution, ExecutionRequest
from benchmark.training.options import TrainingOptions
from benchmark.training.pack import train_pack
from models import Network
from results.store import REFERENCE, Store


def register(verbs: Any) -> None:
    p = add_verb(
        verbs,
        "evaluate",
        details="Prints top-1, top-5 and cross-entropy of a file of weights (in any form that TEACHERS= "
        "takes) or of a finished run. A run is named by a part of its key: one of yours, else a reference "
        "run that ships with its weights. Its record says network, data set and normalisation; for a file, "
        "--network, --dataset and --protocol do. Nothing is stored without --record.",
        example="evaluate resnet56_best.pth --dataset cifar100",
    )
    p.add_argument("target", metavar="FILE|RUN", help="a file of weights; or a run's key, or a part of it")
    p.add_argument(
        "--network",
        default="",
        metavar="NAME",
        help="the network of a file, if its name does not say it and its weights fit several",
    )
    p.add_argument(
        "--dataset",
        action=NameOption,
        names=DATASETS,
        default="",
        help="%(names)s, folder:NAME (default: by the number of classes, cifar100 or cifar10)",
    )
    p.add_argument(
        "--protocol",
        default=options.variable("PROTOCOL"),
        help="the protocol whose normalisation the images get (default: what the file states, else "
        "$PROTOCOL, else crd)",
    )
    p.add_argument(
        "--epoch", default="", choices=finished.EPOCHS, help="which weights of a run (default: last)"
    )
    p.add_argument("--per-class", action="store_true", help="also print the top-1 of each class")
    p.add_argument(
        "--record",
        action="store_true",
        help="store the result as the record of an imported checkpoint, as `teachers --test` does",
    )
    group = p.add_argument_group("how to measure")
    options.add_device_option(group)
    group.add_argument(
        "--precision", default="fp32", help="auto, fp32, tf32, bf16 (default: fp32, the reference)"
    )
    options.add_threads_option(group)
    group = p.add_argument_group("folders")
    options.add_results_option(group)
    options.add_data_option(group)
    add_json_option(p)
    p.set_defaults(do=do_evaluate)


@dataclass(frozen=True)
class _Measured:
    """What is measured, and on what."""

    net: Network
    dataset: str
    normalise: Mapping[str, Any]
    """`mean` and `std`, three numbers each."""
    images: int
    """Number of test images."""
    facts: Mapping[str, Any]
    """What the result states of it."""
    predictor: finished.Predictor | None = None
    """Makes the logits from the network's features, if the network does not."""


def do_evaluate(args: argparse.Namespace) -> int:
    data.use_folder(common.path_of(args.data))
    if args.dataset:
        data.check_name(args.dataset)
    if args.network and args.network not in models.names():
        raise unknown("network", args.network, models.names())
    if args.protocol:
        protocols.get_protocol(args.protocol)
    execution = ExecutionRequest(device=args.device, precision=args.precision, threads=args.threads).resolve()
    store = common.store_of(args)
    run = _run_of(args, store)
    measured = _of_file(args) if run is None else _of_run(args, *run)
    if args.record and run is not None:
        raise InputError("--record: a run has its record already; leave --record out")
    result = _measure(args, measured, execution)
    if args.record:
        result["key"] = _write_record(args, measured, store, execution)
    if args.json:
        print_json(result)
    else:
        _print(args, result)
    return 0


def _run_of(args: argparse.Namespace, store: Store) -> tuple[Store, str] | None:
    """Return the run that the target means: its store, of the user or the reference, and its key.

    Returns None for a file of weights that belongs to no run.
    """
    reference = Store(REFERENCE)
    if not is_file_name(args.target):
        if Path(args.target).suffix.lower() in CHECKPOINTS:
            raise InputError(f"{args.target}: no such file; give a file of weights, or a part of a run's key")
        if matches(store, args.target, ("record.json",)) or not matches(
            reference, args.target, finished.WEIGHTS
        ):
            return store, find_key(store, args.target, ("record.json",))
        key = find_key(reference, args.target, finished.WEIGHTS)
        print_note(f"none of your runs matches; {key} is a reference run")
        return reference, key
    path = common.path_of(args.target).resolve()
    for owner in (store, reference):
        folder = owner.folder.resolve()
        if path.is_relative_to(folder) and path.stem in finished.EPOCHS:
            key = path.parent.relative_to(folder).as_posix()
            if owner.record(key) is not None and args.epoch in ("", path.stem):
                args.epoch = path.stem
                return owner, key
    return None


def _of_run(args: argparse.Namespace, store: Store, key: str) -> _Measured:
    run = finished.load(store, key, args.epoch or "last")
    record = run.record
    for option, stated in (("network", record["student"]), ("dataset", record["dataset"])):
        if (given := getattr(args, option)) and given != stated:
            raise InputError(f"--{option} {given}: {key} is of {stated}; leave the option out")
    facts = {
        "run": key,
        "epoch": run.epoch,
        "weights": run.weights,
        "recorded_top1": run.top1,
        "recorded_with": {name: record.get(name) for name in ("device", "precision")},
    }
    normalise = run.normalise
    if args.protocol and args.protocol != record["protocol"]:
        normalise = _normalisation(args.protocol, record["dataset"])
    images = record.get("test_images") or data.info(record["dataset"]).test_images
    return _Measured(
        net=run.net.student,
        dataset=record["dataset"],
        normalise=normalise,
        images=images,
        facts=facts,
        predictor=run.net if len(run.net.at_test) else None,
    )


def _of_file(args: argparse.Namespace) -> _Measured:
    path = common.path_of(args.target)
    if args.epoch:
        raise InputError(f"--epoch {args.epoch}: {path} is a file, with one epoch; leave --epoch out")
    file = models.read_weights(path)
    entries = (str(name) for name in file.content if str(name).startswith(kept_weights.AT_TEST))
    if (entry := next(entries, None)) is not None:
        method = entry.removeprefix(kept_weights.AT_TEST).partition(".")[0]
        raise InputError(
            f"{path}: predicts with modules of method {method}, which need the run's record; give the run's "
            "key, and --results with the folder that it is in"
        )
    network, dataset = _network_and_dataset(args, file)
    with torch.random.fork_rng(devices=[]):
        net = models.build(network, data.info(dataset).num_classes)
    says = models.load_weights(net, file) or about.read(path)
    stated = None if args.protocol else _stated_normalisation(says)
    normalise = stated or _normalisation(args.protocol or "crd", dataset)
    facts = {
        "file": str(path),
        "weights": models.weights_hash(net),
        "protocol": "" if stated else args.protocol or "crd",
        "says": {k: v for k, v in says.items() if isinstance(v, int | float | str | bool)},
    }
    return _Measured(net.eval(), dataset, normalise, data.info(dataset).test_images, facts)


def _stated_normalisation(says: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the normalisation that a file states, as files of `export` do; None if it states none."""
    stated = says.get("normalise")
    known = isinstance(stated, dict) and all(_is_colour(stated.get(name)) for name in ("mean", "std"))
    return stated if known else None


def _is_colour(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(isinstance(x, int | float) for x in value)


def _normalisation(protocol: str, dataset: str) -> dict[str, list[float]]:
    mean, std = normalisation(protocol, dataset)
    return {"mean": list(mean), "std": list(std)}


def _network_and_dataset(args: argparse.Namespace, file: models.WeightFile) -> tuple[str, str]:
    """Return network and data set of a file. Raises `InputError` if they are not clear."""
    if args.dataset and args.network:
        return args.network, args.dataset
    by_classes = {data.info(args.dataset).num_classes: args.dataset} if args.dataset else imported.DATASETS
    named = [args.network] if args.network else imported.networks_of(file.path)
    fits = models.fitting(file, named, by_classes) or (
        [] if args.network else models.fitting(file, models.names(), by_classes)
    )
    if not fits:
        classes = " or ".join(map(str, by_classes))
        what = f"its weights fit no {named[0] if named else 'network'} with {classes} classes"
        raise InputError(f"{file.path}: {what}; give --network and --dataset")
    if len(fits) > 1:
        fitting = " and ".join(dict.fromkeys(name for name, _ in fits))
        raise InputError(f"{file.path}: its weights fit {fitting}; name one of them with --network")
    network, num_classes = fits[0]
    return network, by_classes[num_classes]


def _measure(args: argparse.Namespace, measured: _Measured, execution: Execution) -> dict[str, Any]:
    loaded = data.load(measured.dataset, common.path_of(args.data))
    test = loaded.test.take(measured.images).to(execution.torch_device)
    mean, std = (
        torch.tensor(measured.normalise[name], device=execution.torch_device) for name in ("mean", "std")
    )
    predictor = measured.predictor
    execution.to_device(measured.net if predictor is None else predictor)
    predict = None if predictor is None else predictor.predict
    with execution.applied():
        z = logits(measured.net, test, mean, std, execution, predict)
    result = score(z, test.labels)
    names = loaded.classes or tuple(map(str, range(z.shape[1])))
    by_class = dict(zip(names, per_class(z, test.labels), strict=True))
    return {
        **measured.facts,
        "network": measured.net.name,
        "dataset": measured.dataset,
        "test_images": len(test.labels),
        "normalise": dict(measured.normalise),
        "device": execution.device,
        "precision": execution.precision,
        "top1": round(result.top1, 4),
        "top5": round(result.top5, 4),
        "loss": round(result.loss, 6) if math.isfinite(result.loss) else None,
        "per_class": {name: round(top1, 4) for name, top1 in by_class.items() if math.isfinite(top1)},
    }


def _write_record(args: argparse.Namespace, measured: _Measured, store: Store, execution: Execution) -> str:
    """Store the record of the checkpoint, if it has none yet, and return its key."""
    ref = TeacherRef(
        measured.net.name,
        weights=measured.facts["weights"],
        path=str(common.path_of(args.target).resolve()),
    )
    run = Resolver().imported_run(
        ref, dataset=measured.dataset, protocol=args.protocol or "crd", profile="paper"
    )
    if run.settings["normalise"] != dict(measured.normalise):
        raise InputError(
            "--record: the file states a normalisation that is not that of protocol "
            f"{args.protocol or 'crd'}; give --protocol"
        )
    common.writable(store.folder, "RESULTS")
    if store.record(run.key) is None:
        train_pack([run], store, TrainingOptions(execution, data_folder=common.path_of(args.data)))
    print_note(f"record: {store.path(run.key) / 'record.json'}")
    return run.key


def _print(args: argparse.Namespace, result: Mapping[str, Any]) -> None:
    what = result.get("run") or result.get("file")
    epoch = f", {result['epoch']} epoch" if "epoch" in result else ""
    print_text(
        f"{what}{epoch}: {result['network']} on {result['dataset']}, {result['test_images']} test images"
    )
    loss = "not finite" if result["loss"] is None else f"{result['loss']:.4f}"
    print(f"top-1 {result['top1']:.2f}, top-5 {result['top5']:.2f}, cross-entropy {loss}")
    mean, std = (" ".join(f"{x:g}" for x in result["normalise"][name]) for name in ("mean", "std"))
    source = f" (protocol {result['protocol']})" if result.get("protocol") else ""
    print_text(f"normalised with mean {mean}, std {std}{source}; {result['device']}, {result['precision']}")
    if result.get("recorded_top1") is not None:
        how = ", ".join(str(x) for x in result["recorded_with"].values() if x)
        print_text(f"its record states top-1 {result['recorded_top1']:.2f} ({how})")
    if args.per_class:
        ascending = sorted(result["per_class"].items(), key=lambda item: item[1])
        print("top-1 of each class, ascending:")
        print(textwrap.fill("; ".join(f"{name} {top1:.1f}" for name, top1 in ascending), 79))
