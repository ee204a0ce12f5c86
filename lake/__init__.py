"""The shell around the lakehouse: settings, the `lake` command, the catalog, the local stack."""
