"""Constants by pair: the values that authors chose for each pair of networks, as tables with their source.

A method lists its tables in `Method.pair_constants`; `python -m benchmark methods NAME` prints them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

ANY = "*"
"""In a pair: any network."""

PROTOCOL = "protocol"
"""What `protocol.FIELD` begins with."""

Value = bool | int | float | str | None


@dataclass(frozen=True)
class PairConstants:
    """A table of constants: one row for each pair, one column for each setting.

    It holds for a run whose combination contains all methods that its settings name. Raises `ValueError` for
    a pair that is not written `teacher:student`, and for a row of the wrong length.
    """

    settings: tuple[str, ...]
    """The columns: `METHOD.FIELD` of this or another method, or `protocol.FIELD` (a field of the protocol,
    for runs whose only loss is this method's; wrappers do not count)."""

    pairs: Mapping[str, tuple[Value, ...]]
    """The rows: a value for each setting, by pair. `teacher:*`, `*:student` and `*:*` give the value of all
    pairs that have no row of their own, in this order of growing precedence: `*:*`, `teacher:*`,
    `*:student`, `teacher:student`. None leaves a value as it is without the row."""

    source: str
    """Where the values come from: file and option of the authors' code, or that they are assumed."""

    def __post_init__(self) -> None:
        for pair, values in self.pairs.items():
            if pair.count(":") != 1 or not all(pair.split(":")):
                raise ValueError(f"pair_constants: '{pair}' is not a pair; write teacher:student")
            if len(values) != len(self.settings):
                raise ValueError(
                    f"pair_constants: {pair} has {len(values)} values for {len(self.settings)} settings "
                    f"({', '.join(self.settings)})"
                )
        if wrong := [s for s in self.settings if "." not in s]:
            raise ValueError(f"pair_constants: setting '{wrong[0]}' is not written METHOD.FIELD")

    @property
    def methods(self) -> frozenset[str]:
        """The methods that the settings name."""
        return frozenset(s.partition(".")[0] for s in self.settings) - {PROTOCOL}

    def of(self, teacher: str, student: str) -> dict[str, Value]:
        """Return the values of a pair by setting, without those that no row gives."""
        rows = (f"{ANY}:{ANY}", f"{teacher}:{ANY}", f"{ANY}:{student}", f"{teacher}:{student}")
        values: dict[str, Value] = {}
        for row in rows:
            for setting, value in zip(self.settings, self.pairs.get(row, ()), strict=False):
                if value is not None:
                    values[setting] = value
        return values


def constants_of(
    name: str, tables: Iterable[PairConstants], present: Collection[str], teacher: str, student: str
) -> dict[str, Any]:
    """Return the values that tables give to the fields of one method, or of the protocol, by field.

    name: the method, or `PROTOCOL`.
    tables: a later one has precedence.
    present: names of all methods of the combination.
    """
    found: dict[str, Any] = {}
    for table in tables:
        if table.methods <= set(present):
            for setting, value in table.of(teacher, student).items():
                method, _, field = setting.partition(".")
                if method == name:
                    found[field] = value
    return found
