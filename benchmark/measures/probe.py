"""A linear probe: the accuracy of a linear classifier on the pooled embedding of the frozen network.

The classifier W f(x) + b is trained on a target data set by SGD with momentum on the cross-entropy; nothing
else is. How it is trained is a protocol of `_probe_protocols.py`: `hsakd`, `rrd` and `seed` are published;
`cached` takes minutes on a CPU. Images of another size are resized to `size`.

A target whose images are too many for the memory is read from its files in every epoch, with the same order
and draws. A random crop is then cut from the whole image; everything else begins with the test form.

The accuracy of the k nearest neighbours under the untouched network stands beside it (knn.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark import data
from benchmark.data import NORMAL, SHUFFLE, RawBatch, Split
from benchmark.data.folders.streamed import FileSplit
from benchmark.measures._features import Progress, at_size, embedding_of, embeddings, limited
from benchmark.measures._probe_protocols import PROTOCOLS, SLOW_NETWORKS, ProbeProtocol
from benchmark.measures._resizing import draw_crops, draw_crops_of_files, random_crops
from benchmark.measures._streamed import augmented
from benchmark.measures.base import Measure, MeasureConfig, MeasureContext
from benchmark.measures.knn import knn_top1
from benchmark.methods import check_range, param
from benchmark.seeds import seed_of
from benchmark.settings import scaled

HEAD_SHARE = 0.01
"""What an image of a batch of stored features counts in the progress, of a pass through the network."""


@dataclass(frozen=True, kw_only=True)
class ProbeConfig(MeasureConfig):
    protocol: str = param("cached", "how the classifier is trained", "ours", allowed=tuple(PROTOCOLS))
    epochs: int = param(0, "length; 0 = the protocol's. Its milestones keep their proportions", "ours")
    lr: float = param(
        0.0, "learning rate; 0 = the protocol's (SEED's is in proportion to batch_size)", "ours"
    )
    batch_size: int = param(0, "images of a batch; 0 = the protocol's", "ours")
    size: int = param(
        32, "side of the images in pixels; 0 = that of the data set", "CRD 2020, Table 4: resized to 32"
    )
    k: int = param(20, "number of neighbours", "as measure knn")
    temperature: float = param(0.07, "temperature of the neighbours' votes", "as measure knn")
    train_images: int = param(0, "training images, drawn at random; 0 = all", "ours")
    test_images: int = param(0, "test images, drawn at random; 0 = all", "ours")

    def __post_init__(self) -> None:
        check_range("probe.k", self.k, 1)
        check_range("probe.temperature", self.temperature, 0.0, above=True)
        for name in ("epochs", "lr", "batch_size", "size", "train_images", "test_images"):
            check_range(f"probe.{name}", getattr(self, name), 0)


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
        return {"recipe": _protocol(config).constants(target)}

    @classmethod
    def headline(cls, config: ProbeConfig) -> str:
        return f"top1_{cls.rule(config)}"

    @classmethod
    def metric_of(cls, config: ProbeConfig, number: str) -> str:
        return "probe_top5" if number == f"top5_{cls.rule(config)}" else super().metric_of(config, number)

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


def _protocol(config: ProbeConfig) -> ProbeProtocol:
    """Return the protocol that the settings name, for their size of batches."""
    return PROTOCOLS[config.protocol].in_batches_of(config.batch_size)


class _Training:
    """The training of a linear classifier, epoch by epoch."""

    def __init__(self, config: ProbeConfig, context: MeasureContext) -> None:
        self.config, self.context = config, context
        self.protocol = _protocol(config)
        self.epochs = config.epochs or self.protocol.epochs
        device = context.device
        target = context.load(context.target)
        info = data.info(context.target)
        self.classes, self.size = info.num_classes, config.size or info.size
        self.train = limited(target.train, config.train_images).to(device)
        self.test = limited(target.test, config.test_images).to(device)
        if self.protocol.augment != "resized-crop-flip":
            self.train = at_size(self.train, self.size)
        self.test = at_size(self.test, self.size)
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
        self.cached: dict[str, Tensor] = {}
        """Embeddings under the untouched network: of the images of `train`, not augmented, and of `test`."""
        self.augmented = self.protocol.augment != "none"
        train, test = len(self.train.labels), len(self.test.labels)
        self.epoch_passes = (
            train * (1.0 if self.augmented else HEAD_SHARE) + test * self.protocol.moving_norms
        )
        """Passes of images in an epoch, for the progress."""
        self.progress = Progress(train + test + self.epochs * self.epoch_passes, context.progress)

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
            if not self.train.is_held:  # it took long
                self.context.save(self._state())
        if self.augmented:
            self.cached.pop("train", None)
        for epoch in range(len(self.scores) + 1, self.epochs + 1):
            loss = self._train_epoch(epoch)
            self.scores.append({**self._evaluate(), "train_loss": loss})
            self.context.save(self._state())
        top1 = [score["top1"] for score in self.scores]
        best = max(range(len(top1)), key=lambda i: (top1[i], -i))
        return {
            "top1_last": top1[-1],
            "top1_best": top1[best],
            "best_epoch": float(best + 1),
            "top5_last": self.scores[-1]["top5"],
            "top5_best": self.scores[best]["top5"],
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
        self.progress.done = len(self.scores) * self.epoch_passes
        self.progress.done += len(self.train.labels) if self.augmented else 0  # else they are computed again
        self.progress.done += len(self.test.labels) if self.protocol.moving_norms else 0

    # --- features -----------------------------------------------------------------------------------------

    def _features(self, part: str) -> Tensor:
        """Return the embeddings of the `train` or `test` images under the network as it is, not augmented."""
        if part not in self.cached:
            self.cached[part] = self._embeddings(self.train if part == "train" else self.test)
        return self.cached[part]

    def _embeddings(self, split: Split) -> Tensor:
        return embeddings(
            self.context.net, split, self.mean, self.std, size=self.size, done=self.progress.add
        )

    def _neighbours(self) -> float:
        return knn_top1(
            self._features("train"),
            self.train.labels,
            self._features("test"),
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
        batches = SHUFFLE.epoch(labels, self.protocol.batch_size, False, order)
        if not self.augmented:
            features = self._features("train")
            for batch in batches:
                rows = batch.to(device)
                yield features[rows], labels[rows]
                self.progress.add(HEAD_SHARE * len(rows))
            return
        net = self.context.net
        if self.protocol.moving_norms:
            net.train()
        for rows, draws, images in self._images(batches, self._draws(epoch)):
            raw = RawBatch(images=images, labels=labels[rows], indices=rows, mean=self.mean, std=self.std)
            with torch.no_grad():
                features = embedding_of(net, self._view(raw, draws))
            yield features, labels[rows]
            self.progress.add(len(rows))
        net.eval()

    def _draws(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed_of(self.context.seed, "probe", "view", epoch))
        n = len(self.train.labels)
        if self.protocol.augment == "crop-flip":
            return NORMAL.draw(n, generator)
        if not self.train.is_held:
            return draw_crops_of_files(n, generator)
        return draw_crops(n, self.train.images.shape[1], generator)

    def _images(self, batches: Sequence[Tensor], draws: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield the positions, the draws and the images of each batch; those in files are cropped already."""
        if isinstance(self.train, FileSplit):
            cropped = self.protocol.augment == "resized-crop-flip"
            yield from augmented(self.train, batches, draws, size=self.size, cropped=cropped)
            return
        start, draws = 0, draws.to(self.context.device)
        for batch in batches:
            rows = batch.to(self.context.device)
            yield rows, draws[start : start + len(rows)], self.train.images[rows]
            start += len(rows)

    def _view(self, raw: RawBatch, draws: Tensor) -> Tensor:
        if self.protocol.augment == "crop-flip":
            return NORMAL.make(raw, draws, draws)
        if not self.train.is_held:
            return raw.normalise(raw.images)
        return raw.normalise(random_crops(raw.images, draws, self.size))

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
            features = self._embeddings(self.test)
        else:
            features = self._features("test")
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
