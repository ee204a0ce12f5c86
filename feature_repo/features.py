"""Features, from gold to training and to the online store.

The online store holds, for every loan that is in gold, the newest row of `gold.ftr_loans`. What to
write is found by comparing the lake as it was brought online last with the lake as it is now, both
by snapshot: not by event time, as Feast's own incremental run does, which passes over rows that
were published after a run that had already covered their time.
"""

import json
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from functools import lru_cache
from io import StringIO
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
from feast import FeatureStore, FeatureView
from feast.data_source import DataSource
from feast.errors import FeastObjectNotFoundException
from feast.repo_config import load_repo_config
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.table import Table

from feature_repo.connections import ValkeyOnlineStore, entity_key
from lake.branches.branch import pinned
from lake.catalog import access, alone, catalog
from lake.errors import LakeError
from lake.settings import TRUNK, settings

HERE = Path(__file__).parent
SERVICE = "loan_approval_v1"
VIEW = "loan_features"
LOANS = "gold.fct_loans"
"""The loans that there are: others, deleted or in quarantine, are not served."""
DECIDED = ("loan_id", "decided_at", "is_approved")
"""What training reads of a loan that is decided."""
BATCH = 10_000

Progress = Callable[[int, int], None]
"""Called with the rows written so far, and of how many."""


@dataclass(frozen=True)
class Mark:
    """What the online store was brought up to: snapshots of both tables, and the features."""

    features: int | None
    loans: int | None
    columns: list[str]


@dataclass(frozen=True)
class Materialized:
    """What one run did: loans written and removed, and how long it took."""

    written: int
    removed: int
    seconds: float


def apply() -> None:
    """Register the entity, the feature view and the service, as `feast apply` does."""
    from feature_repo import definitions

    with redirect_stdout(StringIO()):
        store().apply([definitions.loan, definitions.loan_features, definitions.loan_approval])
    _store.cache_clear()


def training_frame() -> pd.DataFrame:
    """The decided loans of gold, each with its features as they were when it was decided.

    One row a loan: loan_id, event_timestamp (the decision), loan_status (1 approved, 0 refused)
    and the features of the service. All of it is of one publish; on a tag, always the same.
    """
    with pinned():
        decided = _table(LOANS).scan("is_decided = true", selected_fields=DECIDED)
        frame = decided.to_arrow().to_pandas()
        frame["loan_status"] = frame.pop("is_approved").astype("int32")
        frame = frame.rename(columns={"decided_at": "event_timestamp"})
        service = _registered(store().get_feature_service, SERVICE)
        found: pd.DataFrame = store().get_historical_features(frame, service).to_df()
        return found


def online(loan_ids: list[int]) -> dict[int, dict[str, Any] | None]:
    """The features of each loan as they are online; None for a loan that has none."""
    service = _registered(store().get_feature_service, SERVICE)
    answer = store().get_online_features(service, entity_rows=[{"loan_id": i} for i in loan_ids])
    columns = answer.to_dict()
    ids = columns.pop("loan_id")
    rows = [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]
    return {
        loan: row if any(value is not None for value in row.values()) else None
        for loan, row in zip(ids, rows, strict=True)
    }


def materialize(progress: Progress | None = None) -> Materialized:
    """Bring the online store up to gold: write what is new or different, remove what is gone.

    A run that is cut short is made good by the next one.

    Raises LakeError where gold is not built yet, or another run is at work.
    """
    began = time.monotonic()
    with alone("lake materialize", "reader", settings().branch):
        if SERVICE not in {service.name for service in store().list_feature_services()}:
            apply()
        view: FeatureView = store().get_feature_view(VIEW)
        valkey = store().config, view
        with pinned():
            features, loans = _table(_source(view).name), _table(LOANS)
        now = Mark(
            _snapshot(features), _snapshot(loans), sorted(field.name for field in view.features)
        )
        before = _mark(view)
        if before == now:
            return Materialized(0, 0, time.monotonic() - began)
        wanted = _served(features, loans, now, view)
        if before and before.columns == now.columns and _kept(features, loans, before):
            had = _served(features, loans, before, view)
            new = _query("from wanted except all from had", wanted=wanted, had=had)
            gone = _query("from had anti join wanted using (loan_id)", wanted=wanted, had=had)
            leaving = [entity_key("loan_id", i) for i in gone["loan_id"].to_pylist()]
        else:
            new = wanted
            known = set(wanted["loan_id"].to_pylist())
            leaving = [
                entity
                for entity in _online_store().entities(*valkey)
                if entity.entity_values[0].int64_val not in known
            ]
        _write(view, new, progress)
        removed = _online_store().remove(*valkey, leaving)
        _online_store().client(store().config).set(_mark_key(view), json.dumps(asdict(now)))
    return Materialized(new.num_rows, removed, time.monotonic() - began)


def store() -> FeatureStore:
    """Feast on this lake; a branch of the lake has a project, and so values, of its own."""
    return _store(settings().branch if access().is_writable else TRUNK)


@lru_cache
def _store(project: str) -> FeatureStore:
    config = load_repo_config(HERE, HERE / "feature_store.yaml")
    config.project = project
    return FeatureStore(config=config)


def _served(features: Table, loans: Table, mark: Mark, view: FeatureView) -> pa.Table:
    """The newest features of every loan that there is, as of the snapshots of `mark`."""
    times = (_source(view).timestamp_field, _source(view).created_timestamp_column)
    columns = ("loan_id", times[0], times[1], *mark.columns)
    rows = features.scan(snapshot_id=mark.features, selected_fields=columns).to_arrow()
    kept = loans.scan(snapshot_id=mark.loans, selected_fields=("loan_id",)).to_arrow()
    return _query(
        f"""
        select {", ".join(columns)}
        from rows
        semi join kept using (loan_id)
        qualify row_number() over (
            partition by loan_id order by {times[0]} desc, {times[1]} desc
        ) = 1
        """,
        rows=rows,
        kept=kept,
    )


def _query(query: str, **tables: pa.Table) -> pa.Table:
    """What a query finds in tables that it names."""
    with duckdb.connect() as connection:
        for name, table in tables.items():
            connection.register(name, table)
        return connection.sql(query).to_arrow_table()


def _write(view: FeatureView, rows: pa.Table, progress: Progress | None) -> None:
    for start in range(0, rows.num_rows, BATCH):
        # In one chunk: Feast writes the first one and passes over the others.
        batch = rows.slice(start, BATCH).combine_chunks()
        store().write_to_online_store(view.name, batch.to_pandas(types_mapper=pd.ArrowDtype))
        if progress:
            progress(min(start + BATCH, rows.num_rows), rows.num_rows)


def _source(view: FeatureView) -> DataSource:
    assert view.batch_source
    return view.batch_source


def _table(name: str) -> Table:
    try:
        return catalog().load_table(name)
    except NoSuchTableError:
        raise LakeError(f"there is no {name} yet: run `lake build`") from None


def _snapshot(table: Table) -> int | None:
    current = table.current_snapshot()
    return current.snapshot_id if current else None


def _kept(features: Table, loans: Table, mark: Mark) -> bool:
    """Whether the lake can still be read as it was at `mark`."""
    return all(
        snapshot is not None and table.snapshot_by_id(snapshot) is not None
        for table, snapshot in ((features, mark.features), (loans, mark.loans))
    )


def _mark(view: FeatureView) -> Mark | None:
    """The mark, kept beside the values: whoever empties the store takes it along."""
    written: Any = _online_store().client(store().config).get(_mark_key(view))
    return Mark(**json.loads(written)) if written else None


def _mark_key(view: FeatureView) -> str:
    return f"materialized:{store().project}:{view.name}"


def _online_store() -> ValkeyOnlineStore:
    opened = store()._get_provider().online_store
    assert isinstance(opened, ValkeyOnlineStore)
    return opened


def _registered(get: Callable[[str], Any], name: str) -> Any:
    try:
        return get(name)
    except FeastObjectNotFoundException:
        raise LakeError(f"`{name}` is not registered yet: run `lake materialize`") from None
