"""The oracle: a source table against the lake, by content, at one position, while both go on.

`run` takes a snapshot of the source at an LSN, waits for bronze to be complete beyond it, and has
each table compared: `rows` says in SQL which rows each side has, as `values` writes them, and
`digests` compares those without fetching them.
"""
