"""What capture promises holds whatever is killed, delayed or restored: of a model, by thousands of
random schedules; and of each mistake that one could make, some schedule shows it.
"""

from collections import Counter

import pytest

from tests.conftest import SOAK
from tests.streaming.protocol import BrokenError, Rules, explore

SCHEDULES = 100_000 if SOAK else 4000


def test_bronze_is_a_beginning_of_the_wal_each_change_once_and_all_of_it_in_the_end() -> None:
    seen = explore_all(Rules())
    happened = {name for name, count in seen.items() if count >= SCHEDULES / 100}
    assert happened == {
        "acknowledged",
        "advanced",
        "answer lost",
        "began apart",
        "committed",
        "committed a part of a transaction",
        "committed by a zombie",
        "lost the race",
        "refused",
        "restored",
        "rewound",
        "skipped",
    }


MISTAKES = {
    "acknowledge at a checkpoint": (Rules(acknowledges="flushed"), "acknowledged up to"),
    "acknowledge what was received": (Rules(acknowledges="received"), "acknowledged up to"),
    "skip by a change's own LSN": (Rules(skips_by="lsn"), "is no beginning of"),
    "do not compare": (Rules(commits="blindly"), "is no beginning of"),
    "two commits": (Rules(commits="rows, then position"), "is no beginning of"),
    "complete in the middle": (Rules(completes_at="change"), "is missing of what is told"),
    "complete where nothing is": (Rules(completes_at="empty commit"), "acknowledged up to"),
    "reader first": (Rules(begins="reader first"), "is no beginning of"),
    "writer first": (Rules(begins="writer first"), "is no beginning of|is missing of"),
    "refuse nothing": (Rules(refuses=False), "is no beginning of|stays at"),
}


@pytest.mark.parametrize(("rules", "found"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_in_the_protocol_is_found_by_some_schedule(rules: Rules, found: str) -> None:
    with pytest.raises(BrokenError, match=found):
        explore_all(rules)


def explore_all(rules: Rules) -> Counter[str]:
    """What came about in all schedules. Raises BrokenError where something does not hold."""
    seen: Counter[str] = Counter()
    for seed in range(SCHEDULES):
        try:
            seen += explore(seed, rules)
        except BrokenError as broken:
            raise BrokenError(f"seed {seed}: {broken}") from None
    return seen
