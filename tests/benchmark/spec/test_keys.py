"""The keys of all runs of all tables, under every protocol and profile, are those in `keys.txt`.

A key decides which records count. It may change only on purpose: when a method's `revision` is raised, or a
recipe is corrected. Then

    python tests/benchmark/spec/test_keys.py

writes the file again, and its diff shows which methods, protocols and profiles have new keys.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from benchmark.spec import matrix, profiles, protocols
from benchmark.spec.resolver import Resolver

FILE = Path(__file__).with_name("keys.txt")


def digests() -> list[str]:
    """Return a line for each method, protocol and profile: the number of its keys, and a hash of them all.

    Runs on a part of the images, runs with noisy labels and runs that measure have lines of their own.
    """
    keys: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    resolver = Resolver()
    for name in matrix.table_names():
        table = matrix.load_table(name)
        for profile in profiles.PROFILES:
            for protocol in ("", *protocols.PROTOCOLS):
                expansion = matrix.expand(replace(table, protocol_override=protocol), profile, resolver)
                for run in expansion.runs:
                    method = f"{run.method}, chosen data" if run.recipe.selection.describe() else run.method
                    method += "" if run.measure is None else f", {run.measure.name}"
                    keys[method, run.protocol, run.profile].add(run.key)
    lines = []
    for group, keys_of_group in sorted(keys.items()):
        digest = hashlib.sha256("\n".join(sorted(keys_of_group)).encode()).hexdigest()[:12]
        lines.append(f"{' '.join(group)} {len(keys_of_group)} {digest}")
    return lines


def test_no_key_has_changed() -> None:
    expected = FILE.read_text(encoding="utf-8").splitlines()
    assert len(expected) > 1000
    assert digests() == expected


def test_a_changed_setting_changes_the_keys() -> None:
    resolver = Resolver()
    table = matrix.load_table("crd-table1")
    usual = matrix.expand(table, "paper", resolver, pairs=["resnet56:resnet20"], only_methods=["kd"])
    other = matrix.expand(
        table,
        "paper",
        resolver,
        pairs=["resnet56:resnet20"],
        only_methods=["kd"],
        overrides=(("kd.temperature", 5.0),),
    )
    changed = {r.key for r in usual.runs} ^ {r.key for r in other.runs}
    assert {key.split("/")[4] for key in changed} == {"kd"} and len(changed) == 2 * table.seeds


if __name__ == "__main__":
    FILE.write_text("\n".join(digests()) + "\n", encoding="utf-8")
