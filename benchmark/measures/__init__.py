"""What is measured on a trained network: one file for each measure in this folder.

    measures.names()                                     names of all measures
    spec = measures.parse("knn", {"k": 5}, "cifar10")    a measure with its settings and target data set
    numbers = spec.measure.run(spec.config, context)     measure a network

A measure is a run of its own: it has a key, a record, a pack, a Slurm job, a cell of a table and a diff, and
it needs the run whose network it measures. `benchmark.training.measuring` carries it out.

How to add one. Put a file into this folder with one subclass of `Measure` (base.py; knn.py is the shortest
example):

1. Class attributes: `name`, `title`, `paper`, `metric` (of its headline in results/published), and
   `revision`, which is raised when a correction makes older records invalid.
2. `Config`, a frozen dataclass of `MeasureConfig`: every setting with `param(default, help, source)`, and
   in `__post_init__` the checks of their values.
   `profile_settings` gives the values of profile `quick`.
3. `run(config, context)` returns the numbers by name. `context` (`MeasureContext`) has the network, frozen
   and in eval mode, the data sets, the seed and a folder for further files, which `results.files.atomic`
   writes and `context.artifacts` names. Work of more than a minute calls `context.save(state)` and begins
   with `context.saved`, so that an interruption costs little. `context.progress` shows how much is done.
4. `headline(config)` is the name of the number that a table shows and compares.
5. `passes(config, train, test)` tells the cost model how many images pass through the network.

A table asks for it with a section `[measure]` (benchmark/spec/table_file.py). Nothing has to be registered.
Numbers are computed in fp32 whatever the precision of the trainings, and depend only on the network, the
settings, the data sets and the seed.
"""

from benchmark.measures._registry import MeasureSpec, check_override, get, names, parse
from benchmark.measures.base import Measure, MeasureConfig, MeasureContext

__all__ = [
    "Measure",
    "MeasureConfig",
    "MeasureContext",
    "MeasureSpec",
    "check_override",
    "get",
    "names",
    "parse",
]
