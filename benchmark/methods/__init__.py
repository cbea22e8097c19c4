"""Distillation methods: one file each in this folder, discovered automatically, combined with `+`.

    methods.names()                                         names of all methods
    spec = methods.parse("crd+kd", {"crd.weight": 0.5})     a combination with its hyper-parameters
    objective = methods.Objective(spec, context, seed_of)   the loss that the trainer minimises

`base.py` describes what a method is; read it to write one. Put methods of your own into a folder that the
environment variable KD_PLUGINS names.
"""

from benchmark.methods._calls import Leak, MethodError
from benchmark.methods._common import check_range
from benchmark.methods._objective import Objective
from benchmark.methods._pairs import PairConstants
from benchmark.methods._parse import Component, MethodSpec, check_loss, check_override, parse
from benchmark.methods._registry import (
    PLAIN,
    RESERVED,
    clear_cache,
    get,
    is_user_method,
    names,
    user_method_folders,
)
from benchmark.methods.base import (
    IN_TRAIN,
    Method,
    MethodConfig,
    MethodContext,
    Needs,
    Step,
    Terms,
    hyper_parameters,
    param,
)

__all__ = [
    "IN_TRAIN",
    "PLAIN",
    "RESERVED",
    "Component",
    "Leak",
    "Method",
    "MethodConfig",
    "MethodContext",
    "MethodError",
    "MethodSpec",
    "Needs",
    "Objective",
    "PairConstants",
    "Step",
    "Terms",
    "check_loss",
    "check_override",
    "check_range",
    "clear_cache",
    "get",
    "hyper_parameters",
    "is_user_method",
    "names",
    "param",
    "parse",
    "user_method_folders",
]
