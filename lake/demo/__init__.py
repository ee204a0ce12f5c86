"""The reference source: a lender's applications and payments, made or loaded, and changed live.

A row's way: `applicants` draws people (or `csv_file` reads them), `history` says what came of each
application, `payments` what was paid; `fill` puts it all into Postgres, `workload` goes on there.
"""
