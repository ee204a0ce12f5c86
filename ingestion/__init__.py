"""Bulk: every declared table of the source, as of one LSN, into `bronze.<table>`."""
