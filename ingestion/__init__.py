"""Bulk: the declared tables of the source, each as of an LSN, into `bronze.<table>`."""
