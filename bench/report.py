"""Tables for people: a value beside its peers', the ratio, the bar, and whether it is met."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Verdicts:
    """Which bars were met in this run."""

    met: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)

    def judge(self, what: str, value: float, bar: float, *, at_least: bool = False) -> str:
        """`met` or `MISSED`, remembered under the name `what`."""
        good = value >= bar if at_least else value <= bar
        (self.met if good else self.missed).append(what)
        return "met" if good else "**MISSED**"


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that also reads well as it is."""
    widths = [max(len(str(row[column])) for row in [head, *rows]) for column in range(len(head))]
    lines = [f"\n### {title}\n"]
    for number, row in enumerate([head, *rows]):
        lines.append(
            "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        )
        if number == 0:
            lines.append("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def middle(values: Sequence[float]) -> float:
    """The median."""
    return statistics.median(values)


def paired(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the ratios of measurements of the same round: drift of the machine cancels out."""
    return statistics.median(mine / other for mine, other in zip(ours, theirs, strict=False))
