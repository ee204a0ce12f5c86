"""The live workload: the lender's people at work on the source, at a steady rate, until stopped."""

import math
import threading
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import psycopg

from lake.demo.desk import Desk
from lake.demo.history import SEED, generator
from lake.demo.operations import OPERATIONS, UNDONE
from lake.errors import LakeError

RATE = 50.0  # operations in a second
MIX: Mapping[str, float] = {
    "apply": 26,
    "decide": 20,
    "correct": 14,
    "spoil": 3,
    "mend": 2,
    "withdraw": 4,
    "bill": 5,
    "pay": 14,
    "cancel": 3,
    "revise": 4,
    "abandon": 2,
    "retry": 2,
    "rekey": 1,
}
_STREAM = 0x776F726B  # of random numbers: none that the filling uses


@dataclass(frozen=True)
class Summary:
    """What a workload did: operations by name, each one transaction."""

    operations: Mapping[str, int]
    seconds: float
    spoiled: int  # loans that it knows to break a rule, and left so

    @property
    def total(self) -> int:
        return sum(self.operations.values())

    @property
    def rate(self) -> float:
        """Operations in a second, as reached."""
        return self.total / self.seconds if self.seconds else 0.0


def parse_mix(text: str) -> dict[str, float]:
    """A mix as a command takes it: `apply=3,decide=1`; what is not named is not done.

    Raises LakeError on what is not of that form; `run` checks the names and weights.
    """
    mix: dict[str, float] = {}
    for part in text.split(","):
        name, _, weight = part.strip().partition("=")
        try:
            mix[name] = float(weight)
        except ValueError:
            said = f"`{part.strip()}` is no part of a mix: write it as apply=3,decide=1"
            raise LakeError(said) from None
    return mix


def run(
    connection: psycopg.Connection,
    *,
    rate: float = RATE,
    mix: Mapping[str, float] = MIX,
    seconds: float | None = None,
    count: int | None = None,
    stop: threading.Event | None = None,
    seed: int = SEED,
) -> Summary:
    """Do `rate` operations in a second: for `seconds`, or `count` of them, or until `stop` is set.

    `mix` weighs the operations by name. One that finds nothing to work on, or somebody else at it,
    becomes an application.
    Where the source is slower than `rate`, they follow each other without a pause. Raises LakeError
    on options that make no sense, and where the source refuses or goes away.
    """
    _check(rate, mix, seconds, count, seed)
    names = list(mix)
    shares = [mix[name] / sum(mix.values()) for name in names]
    rng = generator(seed, _STREAM)
    desk = Desk(connection, rng)
    stop = stop or threading.Event()
    done: Counter[str] = Counter()
    try:
        with connection.transaction():
            desk.look_around()
        began = time.monotonic()
        while not stop.is_set() and done.total() != count:
            due = done.total() / rate
            if seconds is not None and max(due, time.monotonic() - began) >= seconds:
                break
            if stop.wait(max(0.0, began + due - time.monotonic())):
                break
            done[_operate(desk, str(rng.choice(names, p=shares)))] += 1
    except psycopg.errors.UndefinedTable:
        raise LakeError("the source has no loans: fill it first, with `lake demo`") from None
    except psycopg.Error as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise LakeError(f"the workload ended, the source said: {said}") from None
    return Summary(dict(done), time.monotonic() - began, len(desk.broken))


def _operate(desk: Desk, name: str) -> str:
    """Do one operation, or an application in its place; answers which it was."""
    connection = desk.connection
    # Of two workloads at one row, the loser does something else.
    with suppress(psycopg.IntegrityError, psycopg.errors.DeadlockDetected):
        with connection.transaction(force_rollback=name in UNDONE):
            found = OPERATIONS[name](desk)
        if found:
            return name
    with connection.transaction():
        OPERATIONS["apply"](desk)
    return "apply"


def _check(
    rate: float, mix: Mapping[str, float], seconds: float | None, count: int | None, seed: int
) -> None:
    if not (math.isfinite(rate) and rate > 0):
        raise LakeError(f"the rate {rate} makes no sense: give operations in a second, above 0")
    if seconds is not None and not (math.isfinite(seconds) and seconds >= 0):
        raise LakeError(f"{seconds} seconds make no sense: give 0 or more")
    if count is not None and count < 0:
        raise LakeError(f"{count} operations make no sense: give 0 or more")
    if seed < 0:
        raise LakeError(f"the seed {seed} is negative: give 0 or more")
    if unknown := sorted(mix.keys() - OPERATIONS.keys()):
        known = ", ".join(OPERATIONS)
        raise LakeError(f"the mix names `{unknown[0]}`, which is no operation: one of {known}")
    wrong = [name for name, weight in mix.items() if not (math.isfinite(weight) and weight >= 0)]
    if wrong:
        raise LakeError(f"the mix weighs {wrong[0]} as {mix[wrong[0]]}: give 0 or more")
    if not sum(mix.values()) > 0:
        raise LakeError("the mix is empty: weigh at least one operation above 0")
