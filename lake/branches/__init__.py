"""Branches of the whole lake, and their publishing.

The catalog is a table of pointers, `iceberg_tables`: a row for each table of each branch. All that
moves them is SQL, in `schema.sql`, and so is what each role may do; read that first. `branch.py`
and `publish.py` call it, `diff.py` says what a branch changes, `maintain.py` removes what nothing
points to any more.
"""
