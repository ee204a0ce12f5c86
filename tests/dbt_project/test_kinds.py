"""Seeds and snapshots on both engines in turn, against what Python makes of the same rows."""

import csv
import json
import math
import os
import random
import string
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from lake.branches import branch
from lake.catalog import open_catalog
from lake.manifest import copy_project
from tests.dbt_project.conftest import ENGINES, Dbt

STEPS = int(os.environ.get("LAKE_TEST_EXAMPLES", "3"))
SEED = int(os.environ.get("LAKE_TEST_SEED", "20261128"))
SUFFIX, ON = "_kinds", "kinds"
VARIABLES = ("--vars", json.dumps({"layer_suffix": SUFFIX}))
Row = tuple[Any, ...]


def a_text(chance: random.Random) -> str:
    signs = string.printable.replace("\r", "") + "äß漢🜚\u2028'\"\\`${}%" + "null"
    return "".join(chance.choices(signs, k=chance.randint(1, 12))) + "."


def a_real(chance: random.Random) -> float:
    (value,) = struct.unpack("<f", struct.pack("<f", chance.uniform(-1e9, 1e9)))
    return float(value)


def a_time(chance: random.Random) -> datetime:
    micros = chance.randint(0, 200 * 365 * 86_400 * 10**6)
    return datetime(1900, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)


def infinite(value: float) -> str:
    return str(value).replace("inf", "Infinity")


VALUES: dict[str, tuple[Callable[[random.Random], Any], Callable[[Any], str]]] = {
    "smallint": (lambda chance: chance.randint(-(2**15), 2**15 - 1), str),
    "integer": (lambda chance: chance.randint(-(2**31), 2**31 - 1), str),
    "bigint": (lambda chance: chance.choice((-(2**63), 2**63 - 1, chance.randint(-9, 9))), str),
    "real": (a_real, repr),
    "double precision": (lambda chance: chance.choice((chance.gauss(0, 1e9), math.inf)), infinite),
    "boolean": (lambda chance: chance.random() < 0.5, lambda value: str(value).lower()),
    "text": (a_text, str),
    "date": (lambda chance: date.fromordinal(chance.randint(1, 3_652_059)), str),
    "bytea": (
        lambda chance: chance.randbytes(chance.randint(1, 9)),
        lambda value: rf"\x{value.hex()}",
    ),
    "timestamp": (lambda chance: a_time(chance).replace(tzinfo=None), str),
    "timestamptz": (a_time, str),
    "numeric(12,2)": (
        lambda chance: Decimal(chance.randint(-(10**12) + 1, 10**12 - 1)).scaleb(-2),
        str,
    ),
    "numeric(38,10)": (
        lambda chance: Decimal(chance.randint(0, 10**38 - 1)).scaleb(-10),
        lambda value: f"{value:f}",
    ),
}
"""For each type of a contract: a random value, and how a file has it."""


@pytest.fixture
def on_a_branch(lake_stack: Path) -> Iterator[str]:
    branch.create(ON)
    yield ON
    branch.drop(ON)


class Project:
    """A project of seeds and snapshots alone."""

    def __init__(self, path: Path) -> None:
        self.path = copy_project(path)
        for old in [*path.glob("models/*/*.*"), path / "models" / "exposures.yml"]:
            old.unlink()

    def declare(self, kind: str, name: str, **more: object) -> None:
        folder = self.path / kind / "gold"
        folder.mkdir(parents=True, exist_ok=True)
        declared = {kind: [{"name": name, "description": name, **more}]}
        (folder / f"{name}.yml").write_text(yaml.safe_dump(declared))

    def seed(self, name: str, types: dict[str, str]) -> None:
        columns = [{"name": one, "data_type": types[one], "description": one} for one in types]
        self.declare("seeds", name, columns=columns)

    def fill(self, name: str, columns: list[str], rows: list[list[str]]) -> None:
        with (self.path / "seeds" / "gold" / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([columns, *rows])


def listed(chance: random.Random) -> list[Row]:
    """Rows of random values of all types, and nulls."""
    return [
        tuple(None if chance.random() < 0.2 else VALUES[one][0](chance) for one in VALUES)
        for _ in range(chance.choice((0, 1, 50)))
    ]


class Things:
    """Rows that change between builds, and each version that a build has found of them before."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.rows: dict[tuple[str, int], tuple[str | None, datetime]] = {}
        self.former: Counter[Row] = Counter()
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def change(self) -> None:
        self.now += timedelta(hours=1)
        for key in list(self.rows):
            fate, (value, _) = self.chance.random(), self.rows[key]
            if fate < 0.5:
                self.former[(*key, value)] += 1
                self.rows[key] = (self.other(value), self.now)
            if fate < 0.2:
                del self.rows[key]
        for _ in range(self.chance.randint(0, 6)):
            key = (self.chance.choice(("a", "a|1", "1|a", "|", "é")), self.chance.randint(1, 12))
            self.rows.setdefault(key, (self.other("x"), self.now))

    def other(self, value: str | None) -> str | None:
        return self.chance.choice([one for one in (None, "x", "y", "x|y", "1") if one != value])

    def texts(self) -> list[list[str]]:
        return [
            [name, str(number), value or "", f"{at:%Y-%m-%d %H:%M:%S}+00"]
            for (name, number), (value, at) in self.rows.items()
        ]


def test_seeds_and_snapshots_hold_what_the_files_said_whichever_engine_builds(
    dbt: Dbt, tmp_path: Path, on_a_branch: str
) -> None:
    chance = random.Random(SEED)
    project, things = Project(tmp_path / "dbt_project"), Things(chance)
    types = {f"c{i}": type_ for i, type_ in enumerate(VALUES)}
    project.seed("listed", types)
    project.seed("things", {"name": "text", "n": "integer", "v": "text", "at": "timestamptz"})
    for strategy, noticed in (
        ("check", {"check_cols": ["v"]}),
        ("timestamp", {"updated_at": "at"}),
    ):
        config: dict[str, object] = {"unique_key": ["name", "n"], "strategy": strategy}
        config |= {"hard_deletes": "invalidate", **noticed}
        project.declare("snapshots", f"by_{strategy}", relation="ref('things')", config=config)
    for step in range(STEPS):
        rows = listed(chance)
        order = chance.sample(range(len(VALUES)), len(VALUES))
        shown = [
            ["" if row[i] is None else list(VALUES.values())[i][1](row[i]) for i in order]
            for row in rows
        ]
        project.fill("listed", [list(types)[i] for i in order], shown)
        things.change()
        project.fill("things", ["name", "n", "v", "at"], things.texts())
        engine = chance.choice(ENGINES)
        said = f"{engine}, seed {SEED}, step {step}"
        for _ in range(chance.randint(1, 2)):  # the second finds nothing new
            done = dbt(on_a_branch, engine, "build", *VARIABLES, project=project.path)
            assert done.returncode == 0, done.stdout
        opened = open_catalog(on_a_branch)
        names = sorted(name for _, name in opened.list_tables(f"gold{SUFFIX}"))
        assert names == ["by_check", "by_timestamp", "listed", "things"], said
        found = opened.load_table(f"gold{SUFFIX}.listed").scan().to_arrow()
        assert found.column_names == list(types)
        held = [tuple(row.values()) for row in found.to_pylist()]
        assert sorted(held, key=repr) == sorted(rows, key=repr), said
        for name in ("by_check", "by_timestamp"):
            kept = opened.load_table(f"gold{SUFFIX}.{name}").scan().to_arrow().to_pylist()
            assert_versions(name, kept, things, f"{name}: {said}")


def assert_versions(name: str, kept: list[dict[str, Any]], things: Things, said: str) -> None:
    current = {(one["name"], one["n"]): one["v"] for one in kept if one["dbt_valid_to"] is None}
    assert current == {key: value for key, (value, _) in things.rows.items()}, said
    former = [one for one in kept if one["dbt_valid_to"] is not None]
    assert Counter((one["name"], one["n"], one["v"]) for one in former) == things.former, said
    assert len(kept) == len(current) + len(former), said
    for key in current if name == "by_check" else ():  # else from the rows' own times
        lives = sorted(
            (one["dbt_valid_from"], one["dbt_valid_to"])
            for one in kept
            if (one["name"], one["n"]) == key
        )
        for (_, ended), (began, _) in pairwise(lives):
            assert ended <= began, said
