"""Print two bounds on the train loss of a KD student, which show how peaked its teacher's outputs are.

    python docs/teacher_softness.py --data DATA --teachers TEACHERS [--network resnet56] [--images 10000]

start: 0.1 log(C) + 0.9 T^2 KL(p || uniform), the loss of a student with uniform outputs.
floor: 0.1 CE(teacher) + 0, the loss of a student that equals the teacher.
p: the teacher's outputs at temperature T = 4 on training images, cropped and flipped as in training.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.nn.functional as F

from benchmark import data
from benchmark.data.stream import Stream
from benchmark.spec import imported, protocols


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--teachers", type=Path, required=True)
    parser.add_argument("--network", default="resnet56")
    parser.add_argument("--images", type=int, default=10000)
    args = parser.parse_args()
    ref = imported.teachers_in(args.teachers)["cifar100", args.network]
    net = imported.load_teacher(ref, "cifar100", Path(ref.path))
    protocol = protocols.get_protocol("crd")
    train = data.load("cifar100", args.data).train.take(args.images)
    stream = Stream(
        train,
        mean=protocol.mean,
        std=protocol.std,
        sampler=data.SHUFFLE,
        batch_size=500,
        drop_last=False,
        seed=0,
    )
    temperature, count, start, floor = 4.0, 0, 0.0, 0.0
    for batch in stream.epoch("main", 1, (data.NORMAL,)):
        logits = net(batch.views["normal"])
        log_p = F.log_softmax(logits / temperature, 1)
        classes, rows = logits.shape[1], len(logits)
        divergence = math.log(classes) + (log_p.exp() * log_p).sum(1).mean()
        start += rows * float(0.1 * math.log(classes) + 0.9 * temperature**2 * divergence)
        floor += rows * float(0.1 * F.cross_entropy(logits, batch.labels))
        count += rows
    print(f"{args.network}, {count} training images: start {start / count:.3f}, floor {floor / count:.3f}")


if __name__ == "__main__":
    main()
