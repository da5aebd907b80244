"""Random histories of one register, small enough for any checker: half of them are told wrongly somewhere.

A run is simulated on a register that works; then, in every second history, one answer is changed or two are
swapped. Whether that made it impossible is for the checkers to say.
"""

import dataclasses
import random

from tests.history.linear import FOR_EVER, Operation


def sample(seed: int) -> list[Operation]:
    """The history of a seed. The register holds 0 at first, and values may come twice."""
    dice = random.Random(seed)
    held, history = 0, []
    clients = [0] * dice.randint(1, 4)
    for _ in range(dice.randint(2, 14)):
        who = dice.randrange(len(clients))
        start = clients[who] + dice.randint(0, 6)
        moment = start + dice.randint(0, 12)
        end = moment + dice.randint(0, 8)
        clients[who] = end + 1
        history.append((moment, who, start, end, dice.choice(["read", "read", "write", "cas", "add"])))
    told = []
    for _, who, start, end, kind in sorted(history):
        value, expected, output = dice.randint(1, 4), dice.randint(0, 4), None
        lost = kind != "read" and dice.random() < 0.12
        if kind == "read":
            output = held
        elif kind == "write":
            held = value if not lost or dice.random() < 0.5 else held
        elif kind == "cas":
            output = held == expected
            held = value if output else held
        elif kind == "add":
            held, output = held + value, held + value
        told.append(
            Operation(
                str(who),
                "x",
                kind,
                start,
                FOR_EVER if lost else end,
                value,
                expected,
                None if lost else output,
            )
        )
    return spoiled(told, dice) if seed % 2 else told


def spoiled(history: list[Operation], dice: random.Random) -> list[Operation]:
    """One answer is not what was answered."""
    reads = [number for number, one in enumerate(history) if one.answered and one.output is not None]
    if not reads:
        return history
    number = dice.choice(reads)
    one = history[number]
    wrong = (not one.output) if one.kind == "cas" else dice.randint(0, 5)
    return [*history[:number], dataclasses.replace(one, output=wrong), *history[number + 1 :]]


def as_json(one: Operation) -> dict[str, object]:
    """An operation as porcupine/main.go reads it."""
    return {
        "Kind": one.kind,
        "Start": int(one.start),
        "End": int(one.end) if one.answered else -1,
        "Value": one.value or 0,
        "Expected": one.expected or 0,
        "Output": int(one.output or 0),
    }
