"""Payment schedules of approved loans: what is due when, and what came in by a given moment."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lake.demo.applicants import Array

DAY = 86_400_000_000  # in microseconds
TERMS, TERM_SHARES = (3, 6, 9, 12), (0.2, 0.35, 0.15, 0.3)
LATE, NEVER = 0.08, 0.02  # shares of installments
CHANNELS, CHANNEL_SHARES = ("card", "transfer", "cash"), (0.5, 0.42, 0.08)

PAYERS: tuple[dict[str, Any], ...] = (
    {"name": "Zoë Ångström", "bank": {"bic": "DEUTDEFF", "verified": True}},
    {"name": "Siobhán O'Neill", "bank": {"bic": "BOFIIE2D", "verified": False}},
    {"name": "李小龍", "bank": None},
    {"name": 'Jan "Johnny" Nowák', "bank": {"bic": "BREXPLPW", "verified": True}},
    {"name": "Μαρία Παπαδοπούλου", "bank": {"bic": None}},
    {"name": "عائشة", "bank": {}},
    {"name": "back\\slash, comma; and\ttab", "bank": {"verified": None}},
)
NOTES: tuple[Any, ...] = (
    None,
    "",
    "paid in full 🎉",
    "two\nlines",
    'says "tomorrow"',
    [],
    ["reminded", {"by": "☎", "times": 2}],
    {"fee": 12.50, "waived": False, "history": [[1, 2], [3, [4]]]},
    12345678901234567890,
    1e-7,
)


def schedule(
    rng: np.random.Generator, loan_id: Array, amount: Array, rate: Array, start: Array, until: int
) -> pa.Table:
    """Every installment of these loans, in key order; what was paid after `until` is not yet known.

    `start` (when the loan was approved) and `until` are microseconds since 1970.
    """
    term = rng.choice(TERMS, len(loan_id), p=TERM_SHARES)
    of = np.repeat(np.arange(len(loan_id)), term)
    installment = np.arange(len(of)) - np.repeat(np.cumsum(term) - term, term) + 1
    monthly = rate / 1200
    equal = amount * monthly / (1 - (1 + monthly) ** -term)
    due = _due(start[of], installment)
    paid = _paid(rng, due)
    unpaid = paid > until
    channel = rng.choice(CHANNELS, len(of), p=CHANNEL_SHARES)
    return pa.table(
        {
            "loan_id": loan_id[of],
            "installment": installment,
            "due_on": due,
            "amount": np.round(equal, 2)[of],
            "paid_at": pa.array(paid, pa.timestamp("us", "UTC"), mask=unpaid),
            "channel": pa.array(channel, pa.string(), mask=unpaid & (rng.random(len(of)) < 0.8)),
            "reference": uuids(rng, len(of)),
            "details": _details(rng, installment, term[of], rate[of]),
        }
    )


def _due(start: Array, installment: Array) -> Array:
    """The same day in the months after the start, at most the 28th."""
    day = start.astype("M8[us]").astype("M8[D]")
    month = day.astype("M8[M]")
    of_month = np.minimum((day - month.astype("M8[D]")).astype(int), 27)
    due: Array = (month + installment).astype("M8[D]") + of_month
    return due


def _paid(rng: np.random.Generator, due: Array) -> Array:
    """When each installment comes in, in microseconds; far in the future where it never does."""
    midnight = due.astype("M8[us]").astype(np.int64)
    kind = rng.random(len(due))
    days = np.where(kind < LATE, rng.exponential(12, len(due)), rng.uniform(-4, 1, len(due)))
    paid = midnight + (days * DAY).astype(np.int64)
    return np.where(kind > 1 - NEVER, np.iinfo(np.int64).max, paid)


def uuids(rng: np.random.Generator, count: int) -> list[str]:
    """Random (version 4) UUIDs, as 32 hex digits."""
    raw = rng.integers(0, 256, (count, 16), dtype=np.uint8)
    raw[:, 6] = raw[:, 6] & 0x0F | 0x40
    raw[:, 8] = raw[:, 8] & 0x3F | 0x80
    digits = raw.tobytes().hex()
    return [digits[at : at + 32] for at in range(0, len(digits), 32)]


def _details(rng: np.random.Generator, installment: Array, term: Array, rate: Array) -> pa.Array:
    """JSON of every kind: nested, unicode, quotes, nulls, numbers that no float holds."""
    count = len(term)
    payers = np.array([json.dumps(payer, ensure_ascii=False) for payer in PAYERS], dtype=object)
    notes = np.array([json.dumps(note) for note in NOTES], dtype=object)
    pieces = (
        '{"plan": {"installment": ',
        installment,
        ', "of": ',
        term,
        ', "rate": ',
        rate,
        '}, "payer": ',
        payers[rng.integers(len(payers), size=count)],
        ', "note": ',
        notes[rng.integers(len(notes), size=count)],
        "}",
    )
    texts = (p if isinstance(p, str) else pa.array(p).cast(pa.string()) for p in pieces)
    return pc.binary_join_element_wise(*texts, "")
