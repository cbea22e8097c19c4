"""The options of the trainer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmark.training.active_run import ActiveRun
from benchmark.training.execution import Execution
from benchmark.training.reporter import Reporter


@dataclass
class TrainingOptions:
    """How `train_pack` trains. `WorkSettings.training_options` derives them from a worker's settings."""

    execution: Execution
    data_folder: Path = Path("data")
    keep: str = "all"
    """Which weights of finished runs are kept: `all`, or `none` except those that other runs build on."""
    cached_teachers: frozenset[str] = frozenset()
    """Identities of the teachers with a teacher cache, as `teacher_cache_rule` chose them for the plan."""
    accept_edit: bool = False
    """Go on with begun runs although the file of a user method, or their teacher, has changed since."""
    accept_weak_teacher: bool = False
    """Whether an imported teacher that is near chance may teach (see teacher_check.py)."""
    weak_teachers: set[str] = field(default_factory=set)
    """What was already reported about weak teachers: each is named once, not for each of its packs."""
    until: int | None = None
    """Stop after this epoch of the main stage; the runs can be resumed later."""
    reporter: Reporter = field(default_factory=Reporter)
    after_epoch: Callable[[ActiveRun], None] = lambda active: None
    """Called when a run has finished an epoch and its files are written."""
