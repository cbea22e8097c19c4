"""Names of the classes of data sets by label, without loading the images."""

from __future__ import annotations

from pathlib import Path

from benchmark.data import clips
from benchmark.data.datasets import info
from benchmark.errors import InputError

_CIFAR10 = """
airplane automobile bird cat deer dog frog horse ship truck
"""

_CIFAR100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard
lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear
pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark
shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone
television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""

CIFAR10, CIFAR100 = _CIFAR10.split(), _CIFAR100.split()


def class_names(dataset: str, folder: Path) -> list[str]:
    """Return the names of the classes, [] if they are not known.

    folder: the data folder, for a data set of the user's files.
    """
    if dataset == "digits":
        return [str(digit) for digit in range(10)]
    if dataset == clips.NAME:
        try:
            names = list(clips.list_clips(folder).classes)
        except InputError:
            return []
    else:
        names = {"cifar10": CIFAR10, "cifar100": CIFAR100}.get(dataset, [])
    return names if len(names) == info(dataset).num_classes else []
