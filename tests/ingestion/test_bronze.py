"""The tables of bronze are as their readers and capture expect them."""

from ingestion import bronze


def test_the_changes_have_the_columns_that_capture_writes_and_prune_by_position(
    own_lake: str,
) -> None:
    table = bronze.create_changes()
    assert [
        (field.field_id, field.name, str(field.field_type)) for field in table.schema().fields
    ] == [
        (1, "source_table", "string"),
        (2, "op", "string"),
        (3, "commit_lsn", "long"),
        (4, "ordinal", "long"),
        (5, "lsn", "long"),
        (6, "xid", "long"),
        (7, "committed_at", "timestamptz"),
        (8, "ingested_at", "timestamptz"),
        (9, "key", "string"),
        (10, "before", "string"),
        (11, "after", "string"),
        (12, "unchanged", "string"),
    ]
    partition = [(f.source_id, f.name, str(f.transform)) for f in table.spec().fields]
    assert partition == [(1, "source_table", "identity"), (8, "ingested_at_day", "day")]
    metrics = {
        name.rpartition(".")[2]: mode
        for name, mode in table.properties.items()
        if ".metrics." in name
    }
    assert metrics == {"commit_lsn": "full"} | dict.fromkeys(
        ("key", "before", "after", "unchanged"), "none"
    )


def test_the_shapes_of_tables_are_in_no_partition(own_lake: str) -> None:
    table = bronze.create_schema_changes()
    assert [field.name for field in table.schema().fields] == [
        "source_table",
        "commit_lsn",
        "ordinal",
        "committed_at",
        "ingested_at",
        "columns",
        "replica_identity",
    ]
    assert table.spec().is_unpartitioned()
