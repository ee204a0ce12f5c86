"""What came of each application: when it was made, decided and paid, up to a given moment.

The same seed and moment give the same rows, whatever the number of rows that are asked for at once:
each chunk has a stream of random numbers of its own, and memory holds one chunk.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from lake.demo import applicants, payments
from lake.demo.applicants import Array, Columns
from lake.demo.payments import DAY

SEED = 7
UNTIL = datetime(2026, 11, 1, tzinfo=UTC)
"""When the made-up history ends, so that it does not depend on the day it is made."""

SPAN = 730 * DAY  # applications are this old at most
GROWTH = 0.85  # below 1: later months have more of them
DECISION = (2.0, 12.0)  # shape, and scale in days, of a gamma distribution
CHUNK = 20_000


@dataclass(frozen=True)
class Batch:
    """Rows of both tables, as Arrow tables with the columns of `source.sql` in order."""

    loans: pa.Table
    payments: pa.Table


def made(count: int, seed: int = SEED, until: datetime = UNTIL) -> Iterator[Batch]:
    """`count` loans with their payments, numbered from 1 in the order of application.

    The newest few per cent are undecided.
    """
    for chunk, first in enumerate(range(0, count, CHUNK)):
        rng = generator(seed, chunk)
        people = applicants.draw(rng, CHUNK)
        place = (first + np.arange(CHUNK) + rng.random(CHUNK)) / count
        wait = _waits(rng)
        size = min(CHUNK, count - first)
        people = {name: column[:size] for name, column in people.items()}
        end = micros(until)
        applied = end - SPAN + (SPAN * place[:size].clip(0, 1) ** GROWTH).astype(np.int64)
        decided = applied + wait[:size]
        yield _batch(rng, first + 1, people, applied, decided, decided > end, end)


def given(chunks: Iterator[Columns], seed: int = SEED, until: datetime = UNTIL) -> Iterator[Batch]:
    """Applications that were read, with all their decisions, at times drawn for them.

    `chunks` have at most CHUNK rows each; loans are numbered from 1 in the order they come.
    """
    first = 1
    for chunk, people in enumerate(chunks):
        rng = generator(seed, chunk)
        size = len(people["person_age"])
        end = micros(until)
        applied = end - SPAN + (SPAN * rng.random(CHUNK)[:size] ** GROWTH).astype(np.int64)
        wait = _waits(rng)[:size]
        decided = np.where(applied + wait > end, applied + (end - applied) // 2, applied + wait)
        undecided = np.zeros(size, bool)
        yield _batch(rng, first, people, applied, decided, undecided, end)
        first += size


def generator(seed: int, *stream: int) -> np.random.Generator:
    """The random numbers of one stream of a seed."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *stream])))


def micros(moment: datetime) -> int:
    """Microseconds since 1970."""
    return int(np.datetime64(moment.astimezone(UTC).replace(tzinfo=None), "us").astype(np.int64))


def _waits(rng: np.random.Generator) -> Array:
    """How long decisions take, in microseconds."""
    shape, days = DECISION
    return (rng.gamma(shape, days * DAY, CHUNK)).astype(np.int64)


def _batch(
    rng: np.random.Generator,
    first: int,
    people: Columns,
    applied: Array,
    decided: Array,
    undecided: Array,
    until: int,
) -> Batch:
    ids = np.arange(first, first + len(applied))
    time = pa.timestamp("us", "UTC")
    paid = ~undecided & (people["loan_status"] == 1) & (people["loan_amnt"] > 0)
    paid &= people["loan_int_rate"] > 0
    return Batch(
        loans=pa.table(
            {"loan_id": ids}
            | people
            | {
                "loan_status": pa.array(people["loan_status"], mask=undecided),
                "applied_at": pa.array(applied, time),
                "updated_at": pa.array(np.where(undecided, applied, decided), time),
            }
        ),
        payments=payments.schedule(
            rng,
            ids[paid],
            people["loan_amnt"][paid],
            people["loan_int_rate"][paid],
            decided[paid],
            until,
        ),
    )
