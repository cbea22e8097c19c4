"""A user's method that does what a test asks for in one of its functions. Tests copy it into KD_METHODS."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import nn

from benchmark.methods.base import Method, MethodConfig, Needs, param


@dataclass(frozen=True, kw_only=True)
class LeakyConfig(MethodConfig):
    weight: float = param(0.1, "weight", "nowhere")
    act: str = param("", "what to do and in which function, as ACT@FUNCTION", "nowhere")


class Leaky(Method):
    name = "leaky"
    init_epochs = 1
    Config = LeakyConfig
    acts = {}  # by name: functions of the method and of the argument of its function

    def do(self, function, argument=None):
        act, _, where = self.config.act.partition("@")
        if where == function:
            type(self).acts[act](self, argument)

    @classmethod
    def needs(cls, config):
        return Needs.of("logits", "logits")

    @classmethod
    def init_needs(cls, config):
        return Needs.of("logits", "logits")

    def __init__(self, config, context):
        super().__init__(config, context)
        self.context = context
        self.layer = nn.Linear(context.num_classes, context.num_classes)
        self.dropout = nn.Dropout(0.5)
        self.do("__init__", context)

    def start_epoch(self, epoch):
        self.do("start_epoch", epoch)

    def loss(self, step):
        self.do("loss", step)
        return {"leaky": F.mse_loss(self.layer(step.student.logits), step.teacher.logits)}

    def task_loss(self, step):
        self.do("task_loss", step)

    def after_step(self):
        self.do("after_step")

    def predict(self, features):
        self.do("predict", features)

    def weight_factor(self):
        self.do("weight_factor")
        return 1.0

    def init_modules(self, student):
        self.do("init_modules")
        return [self.layer]

    def init_lr(self, student_name, lr):
        self.do("init_lr")
        return lr

    def init_loss(self, step):
        self.do("init_loss", step)
        return {"leaky": F.mse_loss(self.layer(step.student.logits), step.teacher.logits)}

    def after_init(self):
        self.do("after_init")

    def get_extra_state(self):
        self.do("get_extra_state")
        return {}

    def set_extra_state(self, state):
        self.do("set_extra_state", state)

    def train(self, mode=True):
        if hasattr(self, "context"):
            self.do("train")
        return super().train(mode)
