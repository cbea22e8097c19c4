"""plugins: what the files of KD_PLUGINS define; checks all of them."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import models
from benchmark import data, methods, plugins
from benchmark.cli.common import path_of
from benchmark.cli.options import add_data_option
from benchmark.cli.output import print_json, print_note, print_text
from benchmark.cli.parser import add_json_option, add_verb
from benchmark.data.user_datasets import user_datasets
from benchmark.spec import protocols, teacher_table
from benchmark.spec.runs import network_info

CLASSES = 10
"""Number of classes that networks are checked with."""


def register(verbs: Any) -> None:
    p = add_verb(
        verbs,
        "plugins",
        details="Lists what the files in the folders of KD_PLUGINS define, and checks all of it: runs each "
        "network once, loads the data sets, reads the checkpoints of teachers.toml. The first mistake ends "
        "the command with one line and exit code 2. Other commands check only what they use.",
        example="plugins",
    )
    add_data_option(p)
    add_json_option(p)
    p.set_defaults(do=do_plugins)


def do_plugins(args: argparse.Namespace) -> int:
    data.use_folder(path_of(args.data))
    rows = found()
    if args.json:
        print_json(rows)
        return 0
    if not plugins.folders():
        print_note("KD_PLUGINS is not set; it names the folder of your own files (docs/add-your-own.md)")
    widths = [max((len(row[key]) for row in rows), default=0) for key in ("kind", "name")]
    for row in rows:
        print_text(f"{row['kind']:<{widths[0]}}  {row['name']:<{widths[1]}}  {row['about']}")
    return 0


def found() -> list[dict[str, str]]:
    """Return kind, name and description of everything that the files define. Raises `InputError`."""
    rows = []

    def add(kind: str, name: str, about: str) -> None:
        rows.append({"kind": kind, "name": name, "about": about})

    for method in map(methods.get, methods.names()):
        if methods.is_user_method(method):
            add("method", method.name, f"{method.formula or method.title} ({_file(method)})")
    for name, network in models.user_networks().items():
        info = network_info(name, CLASSES)
        stages = ", ".join("x".join(map(str, shape)) for shape in info.stage_shapes)
        without = "" if "preacts" in info.parts else "; no pre-activations"
        add("network", name, f"{info.params:,} parameters, stages {stages}{without} ({network.file})")
    for name, properties in user_datasets().items():
        d = properties()
        images = f"{d.train_images:,} + {d.test_images:,} images of {d.size} pixels"
        add("data set", name, f"{d.title}: {d.num_classes} classes, {images}")
    for name in protocols.names():
        if name not in protocols.PROTOCOLS:
            add("protocol", name, protocols.get_protocol(name).title)
    for entry in teacher_table.entries():
        only = "".join(f", {what} {v}" for what, v in (("pair", entry.pair), ("table", entry.table)) if v)
        about = f"{entry.dataset}{only}: weights {entry.ref().weights} ({entry.file})"
        add("teacher", entry.network, about)
    return rows


def _file(method: type[methods.Method]) -> str:
    return str(sys.modules[method.__module__].__file__)
