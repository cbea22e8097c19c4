"""A linear probe: the accuracy of a linear classifier on the pooled embedding of the frozen network.

The classifier W f(x) + b is trained on a target data set by SGD with momentum on the cross-entropy; nothing
else is. How it is trained is a protocol of `_probe_protocols.py`: `hsakd` and `rrd` are the published ones,
`cached` takes minutes on a CPU. Images of another size are resized to `size`.

The accuracy of the k nearest neighbours under the untouched network stands beside it (knn.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark import data
from benchmark.data import NORMAL, SHUFFLE, RawBatch, Split
from benchmark.measures._features import embedding_of, embeddings, limited
from benchmark.measures._probe_protocols import PROTOCOLS, SLOW_NETWORKS, ProbeProtocol
from benchmark.measures._resizing import draw_crops, random_crops, resized
from benchmark.measures.base import Measure, MeasureConfig, MeasureContext
from benchmark.measures.knn import knn_top1
from benchmark.methods import param
from benchmark.seeds import seed_of
from benchmark.settings import scaled


@dataclass(frozen=True, kw_only=True)
class ProbeConfig(MeasureConfig):
    protocol: str = param("cached", "how the classifier is trained", "ours", allowed=tuple(PROTOCOLS))
    epochs: int = param(0, "length; 0 = the protocol's. Its milestones keep their proportions", "ours")
    lr: float = param(0.0, "learning rate; 0 = the protocol's", "ours")
    batch_size: int = param(0, "images of a batch; 0 = the protocol's", "ours")
    size: int = param(32, "side of the images in pixels", "CRD 2020, Table 4: resized to 32")
    k: int = param(20, "number of neighbours", "as measure knn")
    temperature: float = param(0.07, "temperature of the neighbours' votes", "as measure knn")
    train_images: int = param(0, "training images, drawn at random; 0 = all", "ours")
    test_images: int = param(0, "test images, drawn at random; 0 = all", "ours")


class Probe(Measure):
    """Linear classification on frozen features."""

    name = "probe"
    title = "linear probe"
    paper = "CRD (ICLR 2020), HSAKD (IJCAI 2021), RRD"
    metric = "probe_top1"
    Config = ProbeConfig
    profile_settings = {"quick": {"epochs": 3, "batch_size": 16, "train_images": 192, "test_images": 128}}

    @classmethod
    def constants(cls, config: ProbeConfig, target: str) -> dict[str, Any]:
        return {"recipe": PROTOCOLS[config.protocol].constants(target)}

    @classmethod
    def headline(cls, config: ProbeConfig) -> str:
        return f"top1_{cls.rule(config)}"

    @classmethod
    def rule(cls, config: ProbeConfig) -> str:
        return PROTOCOLS[config.protocol].report

    @classmethod
    def passes(cls, config: ProbeConfig, train: int, test: int) -> float:
        protocol = PROTOCOLS[config.protocol]
        train, test = min(config.train_images or train, train), min(config.test_images or test, test)
        epochs = config.epochs or protocol.epochs
        tests = epochs if protocol.moving_norms else 1
        return float(train + test + (protocol.augment != "none") * train * epochs + (tests - 1) * test)

    @classmethod
    def run(cls, config: ProbeConfig, context: MeasureContext) -> dict[str, float]:
        return _Training(config, context).numbers()


class _Training:
    """The training of a linear classifier, epoch by epoch."""

    def __init__(self, config: ProbeConfig, context: MeasureContext) -> None:
        self.config, self.context = config, context
        self.protocol = PROTOCOLS[config.protocol]
        self.epochs = config.epochs or self.protocol.epochs
        self.batch_size = config.batch_size or self.protocol.batch_size
        device = context.device
        target = context.load(context.target)
        self.classes = data.info(context.target).num_classes
        self.train = limited(target.train, config.train_images).to(device)
        self.test = limited(target.test, config.test_images).to(device)
        if self.protocol.augment != "resized-crop-flip":
            self.train = Split(resized(self.train.images, config.size), self.train.labels)
        self.test = Split(resized(self.test.images, config.size), self.test.labels)
        self.mean, self.std = statistics(self.protocol, context)
        self.head = self._new_head()
        self.optimiser = torch.optim.SGD(
            self.head.parameters(),
            lr=self._lr(1),
            momentum=self.protocol.momentum,
            weight_decay=self.protocol.weight_decay,
            nesterov=self.protocol.nesterov,
        )
        self.scores: list[dict[str, float]] = []
        """Accuracies after each epoch."""
        self.knn: float | None = None
        self.cached: tuple[Tensor, Tensor] | None = None
        """Embeddings of the training images without augmentation, and of the test images."""

    def _new_head(self) -> nn.Linear:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(self.context.seed, "probe", "init"))
            head = nn.Linear(_width(self.context), self.classes)
            if self.protocol.init_std:
                nn.init.normal_(head.weight, std=self.protocol.init_std)
                nn.init.zeros_(head.bias)
        return head.to(self.context.device)

    def _lr(self, epoch: int) -> float:
        """Return the learning rate of an epoch, counted from 1."""
        slow = self.context.net.name in SLOW_NETWORKS
        lr = self.config.lr or (self.protocol.lr_slow if slow else self.protocol.lr)
        after = (scaled(m, self.epochs, self.protocol.epochs) for m in self.protocol.milestones)
        return lr * 0.1 ** sum(epoch > m for m in after)

    def numbers(self) -> dict[str, float]:
        """Train what is left, and return the results."""
        self._restore()
        if self.knn is None:
            self.knn = self._neighbours()
        for epoch in range(len(self.scores) + 1, self.epochs + 1):
            loss = self._train_epoch(epoch)
            self.scores.append({**self._evaluate(), "train_loss": loss})
            self.context.save(self._state())
            self.context.progress(epoch, self.epochs)
        top1 = [score["top1"] for score in self.scores]
        best = max(range(len(top1)), key=lambda i: (top1[i], -i))
        return {
            "top1_last": top1[-1],
            "top1_best": top1[best],
            "best_epoch": float(best + 1),
            "top5_last": self.scores[-1]["top5"],
            "train_loss": self.scores[-1]["train_loss"],
            "knn_top1": self.knn,
        }

    # --- state --------------------------------------------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        return {
            "head": self.head.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "norms": dict(self.context.net.named_buffers()) if self.protocol.moving_norms else {},
            "scores": self.scores,
            "knn": self.knn,
        }

    def _restore(self) -> None:
        saved = self.context.saved
        if saved is None:
            return
        self.head.load_state_dict(saved["head"])
        self.optimiser.load_state_dict(saved["optimiser"])
        for name, value in saved["norms"].items():
            self.context.net.get_buffer(name).copy_(value)
        self.scores, self.knn = list(saved["scores"]), float(saved["knn"])

    # --- features -----------------------------------------------------------------------------------------

    def _features(self) -> tuple[Tensor, Tensor]:
        """Return the embeddings of training and test images under the network as it is, not augmented."""
        if self.cached is None:
            train = resized(self.train.images, self.config.size)
            train_features, test_features = (
                embeddings(self.context.net, images, self.mean, self.std)
                for images in (train, self.test.images)
            )
            self.cached = train_features, test_features
        return self.cached

    def _neighbours(self) -> float:
        train, test = self._features()
        return knn_top1(
            train,
            self.train.labels,
            test,
            self.test.labels,
            classes=self.classes,
            k=self.config.k,
            temperature=self.config.temperature,
        )

    def _batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the embeddings and labels of the batches of an epoch."""
        seed, device = self.context.seed, self.context.device
        order = torch.Generator().manual_seed(seed_of(seed, "probe", "order", epoch))
        labels = self.train.labels
        batches = SHUFFLE.epoch(labels, self.batch_size, False, order)
        if self.protocol.augment == "none":
            features = self._features()[0]
            for batch in batches:
                rows = batch.to(device)
                yield features[rows], labels[rows]
            return
        draws = self._draws(epoch).to(device)
        net, images = self.context.net, self.train.images
        if self.protocol.moving_norms:
            net.train()
        start = 0
        for batch in batches:
            rows = batch.to(device)
            raw = RawBatch(
                images=images[rows], labels=labels[rows], indices=rows, mean=self.mean, std=self.std
            )
            with torch.no_grad():
                features = embedding_of(net, self._view(raw, draws[start : start + len(rows)]))
            yield features, labels[rows]
            start += len(rows)
        net.eval()

    def _draws(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed_of(self.context.seed, "probe", "view", epoch))
        n = len(self.train.labels)
        if self.protocol.augment == "crop-flip":
            return NORMAL.draw(n, generator)
        return draw_crops(n, self.train.images.shape[1], generator)

    def _view(self, raw: RawBatch, draws: Tensor) -> Tensor:
        if self.protocol.augment == "crop-flip":
            return NORMAL.make(raw, draws, draws)
        return raw.normalise(random_crops(raw.images, draws, self.config.size))

    # --- training -----------------------------------------------------------------------------------------

    def _train_epoch(self, epoch: int) -> float:
        """Train one epoch, and return the mean loss. Raises `ArithmeticError` if it is not finite."""
        for group in self.optimiser.param_groups:
            group["lr"] = self._lr(epoch)
        total, count = torch.zeros((), device=self.context.device), 0
        for features, labels in self._batches(epoch):
            loss = F.cross_entropy(self.head(features), labels)
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
            total += loss.detach() * len(labels)
            count += len(labels)
        mean = total.item() / max(count, 1)
        if not math.isfinite(mean):
            raise ArithmeticError(
                f"the loss of the probe is not finite in epoch {epoch}; set a smaller probe.lr"
            )
        return mean

    @torch.no_grad()
    def _evaluate(self) -> dict[str, float]:
        """Return top-1 and top-5 on the test images, in percent."""
        if self.protocol.moving_norms:  # the embeddings have changed
            features = embeddings(self.context.net, self.test.images, self.mean, self.std)
        else:
            features = self._features()[1]
        labels = self.test.labels
        hits = self.head(features).topk(min(5, self.classes), dim=1).indices == labels[:, None]
        top1, top5 = hits[:, 0].double().mean(), hits.any(dim=1).double().mean()
        return {"top1": 100 * top1.item(), "top5": 100 * top5.item()}


def statistics(protocol: ProbeProtocol, context: MeasureContext) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation that normalise the target's images, `[3]` each."""
    mean, std = context.mean, context.std
    if protocol.statistics:
        info = data.info(context.target)
        mean, std = protocol.statistics.get(context.target, (info.mean, info.std))
    return torch.tensor(mean, device=context.device), torch.tensor(std, device=context.device)


def _width(context: MeasureContext) -> int:
    return context.net.linear_head().in_features
