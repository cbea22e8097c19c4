"""The fields of a run's files: of which type each is, so that one damaged file breaks no reader.

Whoever reads a field that is listed here may rely on its type. Every field may be missing or None, and other
fields are not looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

MOST_SECONDS = 1e10
"""Three hundred years; a longer time is damage."""


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 1e300


def is_count(value: Any) -> bool:
    """Return whether a value is a whole number, 0 and more."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def _is_duration(value: Any) -> bool:
    return is_number(value) and 0 <= value <= MOST_SECONDS


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_text_by_name(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(x, str) for x in value.values())


def _is_number_by_name(value: Any) -> bool:
    return isinstance(value, dict) and all(is_number(x) for x in value.values())


def _is_object_by_name(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(x, dict) for x in value.values())


def _is_colour(value: Any) -> bool:
    """Return whether a value is a number for each of red, green and blue."""
    return isinstance(value, list) and len(value) == 3 and all(is_number(x) for x in value)


def _is_normalisation(value: Any) -> bool:
    return isinstance(value, dict) and _is_colour(value.get("mean")) and _is_colour(value.get("std"))


def _is_method(value: Any) -> bool:
    return isinstance(value, dict) and _is_object_by_name(value.get("components", {}))


def _is_list_of_parts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(x, dict) and not wrong_field(x, PART) for x in value)


def _is_settings(value: Any) -> bool:
    """Return whether the fields that `SETTINGS` names have the right type. Only the teacher may be None."""
    return isinstance(value, dict) and not any(
        name in value and not check(value[name]) for name, check in SETTINGS.items()
    )


_Check = Callable[[Any], bool]

SETTINGS: Mapping[str, _Check] = {
    **dict.fromkeys(("recipe", "network", "heads", "init_epochs", "measure"), _is_object),
    "method": _is_method,
    "normalise": _is_normalisation,
    "teacher": lambda value: value is None or _is_object(value),
}

PART: Mapping[str, _Check] = {
    **dict.fromkeys(("from", "to"), is_count),
    **dict.fromkeys(("sources", "learns_from"), _is_text_by_name),
}

RECORD: Mapping[str, _Check] = {
    **dict.fromkeys(
        ("epochs", "best_epoch", "held_out_epoch", "seed", "threads", "test_images", "pack"), is_count
    ),
    **dict.fromkeys(("student_threads", "student_params", "method_params"), is_count),
    **dict.fromkeys(("seconds", "share_seconds", "held_out_acc", "top1_held_out"), is_number),
    **dict.fromkeys(("top5_last", "top5_best", "test_loss_last", "images_per_second"), is_number),
    **dict.fromkeys(("device", "device_name", "precision", "host", "node", "job", "finished"), _is_text),
    **dict.fromkeys(("reason", "teacher_cache", "best_chosen_on", "kernels"), _is_text),
    **dict.fromkeys(("channels_last", "graphs"), _is_flag),
    **dict.fromkeys(("order", "imported", "network_info"), _is_object),
    "settings": _is_settings,
    **dict.fromkeys(("sources", "weights"), _is_text_by_name),
    "parts": _is_list_of_parts,
    **dict.fromkeys(("per_class", "numbers"), _is_number_by_name),
}

FAILURE: Mapping[str, _Check] = {
    **dict.fromkeys(("key", "reason", "traceback", "time"), _is_text),
    "blocked": _is_flag,
}

PROGRESS: Mapping[str, _Check] = {
    **dict.fromkeys(("key", "stage", "host", "node", "job"), _is_text),
    **dict.fromkeys(("epoch", "epochs"), is_count),
    **dict.fromkeys(("done", "top1", "images_per_second", "time"), is_number),
    "eta_seconds": _is_duration,
}


def wrong_field(values: Mapping[str, Any], checks: Mapping[str, _Check] = RECORD) -> str:
    """Return which field has a wrong value, "" if none has."""
    for name, check in checks.items():
        value = values.get(name)
        if value is not None and not check(value):
            return f"{name} = {str(value)[:40]!r} is not what this field holds"
    return ""


def usable(values: Any, checks: Mapping[str, _Check]) -> dict[str, Any] | None:
    """Return a JSON object without the fields that have a wrong value, None for anything else."""
    if not isinstance(values, dict):
        return None
    return {
        name: value
        for name, value in values.items()
        if name not in checks or value is None or checks[name](value)
    }


_CURVE_NUMBERS = ("lr", "train_loss", "train_acc", "test_acc", "test_acc_top5", "test_loss", "seconds")


def usable_curve(curve: pd.DataFrame) -> pd.DataFrame | None:
    """Return a curve whose columns have the right types, None if its epochs are not whole numbers.

    What is not a number in a column of numbers becomes NaN.
    """
    if "epoch" not in curve or not pd.api.types.is_integer_dtype(curve["epoch"]):
        return None
    for name in _CURVE_NUMBERS:
        if name in curve and not pd.api.types.is_numeric_dtype(curve[name]):
            curve[name] = pd.to_numeric(curve[name], errors="coerce")
    return curve


def seconds_for_images(record: Mapping[str, Any]) -> bool:
    """Return whether a record says how long it took to train how many images."""
    recipe = record["settings"].get("recipe")
    if not isinstance(recipe, dict):
        return False
    counts = [record.get("epochs"), record.get("test_images")]
    counts += [recipe.get("train_images"), recipe.get("batch_size")]
    return all(n is not None and is_count(n) and n > 0 for n in counts) and is_number(
        record.get("share_seconds")
    )
