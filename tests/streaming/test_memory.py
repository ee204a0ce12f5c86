"""Large values fit into capture's heap, however rarely it commits."""

import hashlib

import psycopg
import pytest

from tests.conftest import SOAK, forget_settings
from tests.ingestion.conftest import declared
from tests.streaming.conftest import Capture, catch_up, changes, hand_over


def test_a_transaction_of_many_values_of_megabytes_is_landed_with_the_heap_that_capture_has(
    owner: psycopg.Connection, running: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = 200 if SOAK else 40
    monkeypatch.setenv("LAKE_CHECKPOINT_SECONDS", "10")  # so that all of it comes between two
    forget_settings()
    owner.execute("create table large (id int primary key, value text)")
    hand_over(declared("large", ("id",), id="int", value="text"))
    running.start()
    owner.execute(
        "insert into large select i, repeat(md5(i::text), 160000) from generate_series(1, %s) as i",
        [rows],
    )
    catch_up()
    there: dict[str, str] = dict(owner.execute("select id::text, md5(value) from large").fetchall())
    landed = [row["after"] for row in changes("public.large")]
    assert len(landed) == rows
    assert {row["id"]: hashlib.md5(row["value"].encode()).hexdigest() for row in landed} == there
