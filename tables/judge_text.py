"""The answer of `judge` as one screen of text, and as JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import Any

from results.published.yardsticks import TAU, WIDE_TAU
from tables.judge import Answer, Explains, Explanation, Teacher, teacher_top1
from tables.judge_cell import Recorded, Result
from tables.statistics import Assumption, Judgement, Sample
from tables.text import capitalized, mean_std, printable, signed, terminal_width
from tables.verdicts import Verdict

WIDTH, LINES = 100, 40
"""The most columns and lines of an answer. A terminal with fewer columns takes as many as it has."""

MOST = 6
"""The largest number of remarks, errata, other results and records to show of each; fewer, if the screen is
full."""


def format_answer(a: Answer) -> str:
    """Return the answer as plain text of at most `LINES` lines of `WIDTH` columns."""
    for most in range(MOST, 0, -1):
        sections = [
            [_title(a), *_limited(_indented(a.remarks), most)],
            [*_published(a, most), *_others(a, most), *_records(a.recorded, most)],
            _verdict(a),
            _explanations(a),
        ]
        text = "\n\n".join("\n".join(piece for x in lines for piece in _broken(x)) for lines in sections)
        if text.count("\n") < LINES:
            break
    return text


def _width() -> int:
    return min(WIDTH, terminal_width())


def _broken(line: str) -> list[str]:
    """Return a line in pieces that a narrow terminal has room for."""
    return textwrap.wrap(line, _width(), subsequent_indent="      ", break_on_hyphens=False) or [""]


def _cut(text: str, width: int = WIDTH) -> str:
    text = printable(text)
    return text if len(text) <= width else text[: width - 3] + "..."


def _indented(lines: Iterable[str]) -> list[str]:
    return [_cut(f"  {line}") for line in lines]


def _limited(lines: list[str], most: int) -> list[str]:
    return lines if len(lines) <= most else [*lines[: most - 1], f"  and {len(lines) - most + 1} more"]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(
        printable(text), _width(), initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False
    )


def _runs(n: int | None, epoch: str) -> str:
    which = f"{epoch} epoch" if epoch in ("last", "best") else "epoch not known"
    return f"({'n not known' if n is None else f'n {n}'}, {which})"


def _title(a: Answer) -> str:
    q = a.question
    what = f"{q.pair} {q.method} on CIFAR-100: yours {mean_std(a.ours.mean, a.ours.std)}"
    if a.other_epoch is not None:
        what += f" / {mean_std(a.other_epoch.mean, a.other_epoch.std)} (n {a.ours.n}, last / best epoch)"
        return _cut(what)
    return _cut(f"{what} {_runs(a.ours.n, a.epoch)}")


def _result(r: Result) -> str:
    recipe = f"; {r.recipe}" if r.recipe else ""
    return f"{mean_std(r.value, r.std)} {_runs(r.n, r.rule)} in {r.published_in}{recipe}"


def _published(a: Answer, most: int) -> list[str]:
    lines = ["Published, and compared here", _cut(f"  {_result(a.published)}")]
    if a.question.method != "student":
        lines += _wrapped(_teacher(a))
    if copies := a.published.copies:
        lines.append(_cut(f"  repeated, which is no new evidence, in {', '.join(copies)}"))
    return lines + _limited([_cut(f"  erratum, {text}") for text in a.errata], most)


def _teacher(a: Answer) -> str:
    whose = f"{a.published.teacher_of}'s checkpoint" if a.published.teacher_of else "not known whose"
    theirs = "top-1 not known" if a.published_teacher is None else f"{a.published_teacher:.2f}"
    top1 = teacher_top1(a.question)
    yours = "yours is not known (--teacher-top1)" if top1 is None else f"yours has {top1:.2f}"
    if a.teacher is Teacher.SAME:
        yours += ", so likely the same"
    elif top1 is not None and a.published_teacher is not None:
        yours += f" ({signed(top1 - a.published_teacher)}): another one"
    return f"teacher: {whose}, {theirs}; {yours}"


def _others(a: Answer, most: int) -> list[str]:
    if not a.others:
        return ["Others' results of this cell: none in the registry"]
    return ["Others' results of this cell", *_limited(_indented(map(_result, a.others)), most)]


def _records(recorded: tuple[Recorded, ...], most: int) -> list[str]:
    if not recorded:
        return ["Records of this cell here: none"]
    origins = {"runs": "ours", "reference": "reference records"}
    lines = [
        f"last {r.last:.2f}, best {r.best:.2f} (n {r.n}), protocol {r.protocol}, profile {r.profile}, "
        f"{origins.get(r.origin, 'imported logs, not ours')}"
        for r in recorded
    ]
    return ["Records of this cell here", *_limited(_indented(lines), most)]


# --- the verdict ------------------------------------------------------------------------------------------


def _interval(j: Judgement) -> str:
    low, high = j.comparison.interval()
    return f"90% interval {signed(low)} to {signed(high)}"


def _verdict(a: Answer) -> list[str]:
    lines = [f"Verdict: {a.verdict}, delta {signed(a.delta)}"]
    judged = a.judgement or a.shifted
    if a.judgement:
        lines[0] += f", {_interval(a.judgement)}"
    if a.reason:
        lines += _wrapped(f"{capitalized(a.reason)}.")
    if a.target.note:
        lines += _wrapped(f"{capitalized(a.target.note)}.")
    if a.shifted:
        lines += _wrapped(
            f"Shifted by the measured {signed(a.shift)} to the published epoch: {a.shifted.verdict}, delta "
            f"{signed(a.shifted.comparison.delta)}, {_interval(a.shifted)}."
        )
    if judged is None:
        return lines
    if judged.verdict is Verdict.UNDECIDED:
        lines += _wrapped(_needed(judged))
    lines += _wrapped(_sensitivity(a, judged))
    if assumed := judged.comparison.assumed:
        s0 = judged.comparison.published if Assumption.STD_OF_PUBLISHED in assumed else judged.comparison.ours
        texts = ", ".join(x.replace("s0", f"s0 = {s0.variance**0.5:.2f}") for x in assumed)
        lines += _wrapped(f"Assumed: {texts}. s0 is the usual std of the student's family.")
    return lines


def _needed(j: Judgement) -> str:
    if j.needed is None:
        return "No number of seeds would decide."
    return f"With {j.needed} seeds it would be decided, if mean and std stayed as they are (optimistic)."


def _sensitivity(a: Answer, judged: Judgement) -> str:
    """Say what the verdict would be with the other values of tau."""
    if judged.comparison.tau == 0:
        return (
            f"tau, the std between two origins, is 0: teacher and code are the publisher's. With {WIDE_TAU}: "
            f"{a.wide}."
        )
    text = f"tau, the std between two origins (teacher, code), is taken as {TAU}. With {WIDE_TAU}: {a.wide}."
    if a.same_origin:
        text += (
            " With 0, if teacher and code are the publisher's (--their-code and --teacher-top1): "
            f"{a.same_origin.verdict}, {_interval(a.same_origin)}."
        )
    return text


# --- what explains the gap --------------------------------------------------------------------------------


def _explanations(a: Answer) -> list[str]:
    head = f"What usually explains a gap of {signed(a.delta)}, and how large it was elsewhere"
    seeds = Explains.YES if abs(a.delta) <= a.seeds_alone else Explains.SMALLER
    rows = [("seeds alone", f"up to {a.seeds_alone:.2f} in 90% of cases", str(seeds))]
    rows += [(str(x.effect.cause), _size(x), _explains(x)) for x in a.explanations]
    widths = [max(len(r[i]) for r in rows if r[2] or i == 0) for i in range(2)]
    lines = [_cut(f"  {c:{widths[0]}}  {size:{widths[1]}}  {e}".rstrip()) for c, size, e in rows]
    end = "  mean (least to most) of n differences in the registry (--json); best: chosen on the test set"
    return [head, *lines, end]


def _size(x: Explanation) -> str:
    sizes = x.effect.sizes
    if not sizes:
        return "not measurable" + (f": {x.effect.basis}" if x.explains is Explains.NOT_MEASURED else "")
    return f"{signed(x.effect.mean)} ({signed(min(sizes))} to {signed(max(sizes))}), n {len(sizes)}"


def _explains(x: Explanation) -> str:
    if x.explains is Explains.NOT_MEASURED:
        return ""
    return f"{x.explains}: {x.reason}" if x.reason else str(x.explains)


# --- JSON -------------------------------------------------------------------------------------------------


def as_json(a: Answer) -> dict[str, Any]:
    """Return the answer as plain data for JSON. Numbers are not rounded."""
    q = a.question
    return {
        "pair": q.pair,
        "method": q.method,
        "protocol": q.protocol or None,
        "epoch": a.epoch or None,
        "ours": _sample(a.ours),
        "other_epoch": None if a.other_epoch is None else _sample(a.other_epoch),
        "logs": [
            {
                "file": str(x.path),
                "format": x.format,
                "epochs": x.last_epoch,
                "complete": x.is_complete(a.target.epochs),
                "last": x.last,
                "best": x.best,
                "best_epoch": x.best_epoch,
                "teacher_top1": x.teacher_top1,
            }
            for x in q.logs
        ],
        "remarks": list(a.remarks),
        "published": _result_json(a.published),
        "published_teacher_top1": a.published_teacher,
        "teacher_top1": teacher_top1(q),
        "teacher": a.teacher,
        "errata": list(a.errata),
        "others": [_result_json(r) for r in a.others],
        "records": [vars(r) for r in a.recorded],
        "verdict": a.verdict,
        "delta": a.delta,
        "reason": a.reason,
        "judgement": None if a.judgement is None else _judgement(a.judgement),
        "shift": a.shift,
        "shifted": None if a.shifted is None else _judgement(a.shifted),
        "with_wide_tau": a.wide,
        "same_origin": None if a.same_origin is None else _judgement(a.same_origin),
        "seeds_alone": a.seeds_alone,
        "explanations": [
            {
                "cause": x.effect.cause,
                "basis": x.effect.basis,
                "sizes": list(x.effect.sizes),
                "mean": x.effect.mean if x.effect.sizes else None,
                "explains": x.explains,
                "reason": x.reason,
            }
            for x in a.explanations
        ],
    }


def _sample(s: Sample) -> dict[str, Any]:
    return {"mean": s.mean, "std": s.std, "n": s.n}


def _result_json(r: Result) -> dict[str, Any]:
    return {**vars(r), "copies": list(r.copies)}


def _judgement(j: Judgement) -> dict[str, Any]:
    low, high = j.comparison.interval()
    return {
        "verdict": j.verdict,
        "delta": j.comparison.delta,
        "low": low,
        "high": high,
        "p": j.comparison.p,
        "tau": j.comparison.tau,
        "needed": j.needed,
        "assumed": list(j.comparison.assumed),
    }
