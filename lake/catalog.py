"""The catalog: Iceberg's JDBC catalog in Postgres, named by the branch that this process is on."""

from functools import lru_cache

from pyiceberg.catalog import Catalog
from pyiceberg.catalog.sql import SqlCatalog

from lake.credentials import credentials
from lake.settings import LAYERS, settings

DATABASE = USER = "catalog"


def properties() -> dict[str, str]:
    """What PyIceberg needs to open the catalog, secrets included: keep it off disk and logs."""
    return {
        "type": "sql",
        "schema_version": "v1",  # what the Java engines write
        "uri": f"postgresql+psycopg://{USER}:{credentials().catalog_password}"
        f"@{settings().host}:{settings().ports.postgres}/{DATABASE}",
        "warehouse": settings().warehouse,
        **storage(),
    }


def jdbc_url() -> str:
    """Where the catalog's database is, for the Java engines; holds no password."""
    return f"jdbc:postgresql://{settings().host}:{settings().ports.postgres}/{DATABASE}"


def storage() -> dict[str, str]:
    """What PyIceberg's file access needs to reach the object store."""
    return {
        "s3.endpoint": settings().s3_endpoint,
        "s3.access-key-id": credentials().s3_access_key,
        "s3.secret-access-key": credentials().s3_secret_key,
        "s3.region": "us-east-1",
        "s3.force-virtual-addressing": "false",
    }


@lru_cache
def catalog() -> Catalog:
    """The lake's tables as PyIceberg sees them, on this process's branch."""
    return SqlCatalog(settings().branch, **properties())


def create() -> None:
    """Make the catalog's tables and the layers' namespaces where they are missing."""
    for layer in LAYERS:
        catalog().create_namespace_if_not_exists(layer)
