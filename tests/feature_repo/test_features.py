"""What is served online and trained on is what gold says, in whatever order gold came to say it."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg
import pytest

from feature_repo import features
from feature_repo.connections import ValkeyOnlineStore, registry
from lake.branches import branch, publish
from lake.catalog import alone, catalog
from lake.credentials import credentials
from lake.errors import LakeError
from lake.settings import TRUNK, environment, on_branch
from tests.conftest import secret_values
from tests.feature_repo.conftest import NOON, exist, forget, land, version

HOUR, TICK = timedelta(hours=1), timedelta(microseconds=1)


def served(loan_id: int, feature: str = "credit_score") -> Any:
    found = features.online([loan_id])[loan_id]
    return None if found is None else found[feature]


def valkey() -> Any:
    return features._online_store().client(features.store().config)


def test_the_newest_version_of_each_loan_is_online_to_the_microsecond(gold: str) -> None:
    land(version(1, NOON + TICK, credit_score=700), version(1, NOON + 2 * TICK, credit_score=701))
    land(version(2, NOON + TICK, credit_score=702))
    assert features.materialize().written == 2
    assert [served(loan) for loan in (1, 2, 3)] == [701, 702, 600]
    assert served(1, "person_income") == 50_001.0


def test_nothing_is_written_when_gold_has_not_changed(gold: str) -> None:
    done = features.materialize()
    assert (done.written, done.removed) == (0, 0)


def test_a_version_that_was_published_late_is_online_all_the_same(gold: str) -> None:
    land(version(1, NOON + 5 * HOUR))
    features.materialize()
    land(version(2, NOON + HOUR, credit_score=710))  # older than what was online by then
    assert features.materialize().written == 1
    assert served(2) == 710


def test_an_old_version_that_was_published_late_does_not_replace_a_newer_one(gold: str) -> None:
    land(version(1, NOON - HOUR, credit_score=500))
    assert features.materialize().written == 0
    assert served(1) == 600


def test_a_correction_of_the_same_moment_is_online(gold: str) -> None:
    corrected = version(1, NOON, credit_score=720) | {"created_timestamp": NOON + HOUR}
    land(corrected)
    features.materialize()
    assert served(1) == 720


def test_a_version_that_was_withdrawn_gives_way_to_the_one_before_it(gold: str) -> None:
    land(version(1, NOON + HOUR, credit_score=730))
    features.materialize()
    catalog().load_table("gold.ftr_loans").delete("credit_score = 730")
    features.materialize()
    assert served(1) == 600


def test_a_loan_that_left_gold_is_not_served_until_it_is_back(gold: str) -> None:
    catalog().load_table("gold.fct_loans").delete("loan_id = 2")
    done = features.materialize()
    assert (done.written, done.removed) == (0, 1)
    assert [served(loan) for loan in (1, 2, 3)] == [600, None, 600]
    exist(2)
    assert features.materialize().written == 1
    assert served(2) == 600


def test_an_emptied_online_store_is_filled_again(gold: str) -> None:
    for key in valkey().scan_iter(f"*{gold}*"):
        valkey().delete(key)
    assert served(1) is None
    assert features.materialize().written == 3
    assert served(1) == 600


def test_leftovers_are_removed_even_when_nothing_says_what_was_online(gold: str) -> None:
    catalog().load_table("gold.fct_loans").delete("loan_id = 3")
    valkey().delete(features._mark_key(features.store().get_feature_view(features.VIEW)))
    done = features.materialize()
    assert (done.written, done.removed) == (2, 1)
    assert served(3) is None


def test_a_run_that_was_cut_short_is_made_good(gold: str, monkeypatch: Any) -> None:
    land(version(1, NOON + HOUR, credit_score=740))
    catalog().load_table("gold.fct_loans").delete("loan_id = 2")

    def cut(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ValkeyOnlineStore, "remove", cut)
        with pytest.raises(KeyboardInterrupt):
            features.materialize()
    features.materialize()
    assert [served(loan) for loan in (1, 2, 3)] == [740, None, 600]


def test_two_runs_at_once_are_kept_apart(gold: str) -> None:
    with alone("lake materialize", "reader", gold), pytest.raises(LakeError, match="at work"):
        features.materialize()


def test_a_branch_whose_name_ends_alike_keeps_its_values(gold: str) -> None:
    alike = f"of_{gold}"
    branch.create(alike)
    with on_branch(alike):
        features.apply()
        features.store().write_to_online_store(
            features.VIEW, pd.DataFrame([version(9, NOON, credit_score=555)])
        )
    valkey().delete(features._mark_key(features.store().get_feature_view(features.VIEW)))
    features.materialize()
    assert served(9) is None
    with on_branch(alike):
        assert served(9) == 555
        forget(alike)


def test_training_sees_a_loan_as_it_was_when_it_was_decided(gold: str) -> None:
    land(version(1, NOON - HOUR, credit_score=400), version(1, NOON + TICK, credit_score=800))
    backfilled = version(2, NOON + HOUR, credit_score=801) | {"created_timestamp": NOON - HOUR}
    land(backfilled)
    exist(4, decided_at=NOON - 2 * HOUR, approved=False)
    land(version(4, NOON - 3 * HOUR, credit_score=450), version(4, NOON, credit_score=802))
    frame = features.training_frame().set_index("loan_id").sort_index()
    assert frame["credit_score"].to_dict() == {1: 600, 2: 600, 3: 600, 4: 450}
    assert frame["loan_status"].to_dict() == {1: 1, 2: 1, 3: 1, 4: 0}


def test_a_training_set_read_by_its_tag_stays_as_it_was_whatever_is_published(gold: str) -> None:
    publish.publish(gold)
    with on_branch(TRUNK):
        features.apply()
        first = features.training_frame()
        branch.tag("training")
    for number in range(3):
        branch.create("later")
        branch.take("later", ["gold.ftr_loans", "gold.fct_loans"])
        with on_branch("later"):
            land(version(1, NOON - HOUR * (3 - number) / 4, credit_score=700 + number))
            exist(10 + number)
        publish.publish("later")
    with on_branch("training"):
        pd.testing.assert_frame_equal(features.training_frame(), first)
    with on_branch(TRUNK):
        assert len(features.training_frame()) == len(first) + 3
    branch.create(gold)  # for what takes it down


def test_online_equals_offline_as_of_the_same_moment(gold: str) -> None:
    land(*(version(loan, NOON + loan * HOUR, person_age=40 + loan) for loan in (1, 2)))
    features.materialize()
    now = pd.DataFrame({"loan_id": [1, 2, 3], "event_timestamp": [datetime.now(UTC)] * 3})
    service = features.store().get_feature_service(features.SERVICE)
    offline = features.store().get_historical_features(now, service).to_df()
    columns = [c for c in offline.columns if c not in ("loan_id", "event_timestamp")]
    expected = offline.set_index("loan_id")[columns].to_dict("index")
    assert features.online([1, 2, 3]) == expected


def test_no_secret_is_in_the_registry_or_beside_the_definitions(gold: str) -> None:
    secrets = [value.encode() for value in secret_values()]
    kept = [path.read_bytes() for path in features.HERE.glob("*") if path.is_file()]
    with psycopg.connect(**registry()) as connection:
        tables = connection.execute(
            "select tablename from pg_tables where schemaname = 'public'"
        ).fetchall()
        for (table,) in tables:
            with connection.cursor().copy(f'copy "{table}" to stdout (format binary)') as copy:
                kept.append(b"".join(copy))
    assert len(tables) > 10
    assert any(b"gold.ftr_loans" in content for content in kept)
    assert not [secret for secret in secrets for content in kept if secret in content]


def test_feast_apply_needs_nothing_but_a_running_stack(gold: str) -> None:
    feast = Path(sys.executable).with_name("feast")
    for _ in range(2):
        done = subprocess.run(
            [feast, "apply"],
            cwd=features.HERE,
            env=os.environ | environment(),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    assert not [name for name, value in os.environ.items() if credentials().feast_password in value]
