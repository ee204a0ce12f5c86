"""How Feast reaches this lake: its catalog, its registry's database and its Valkey.

`feature_store.yaml` names the online store here, so Feast imports this module before it connects
to anything. Addresses and passwords are asked for when they are needed: none is in a file of this
folder, in the environment or in Feast's registry.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Literal

from feast import FeatureView, RepoConfig
from feast.infra.data_sources.contrib.iceberg_catalog.iceberg_source import IcebergSource
from feast.infra.key_encoding_utils import deserialize_entity_key, serialize_entity_key_prefix
from feast.infra.online_stores.helpers import _mmh3, _redis_key
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig
from feast.protos.feast.core.DataSource_pb2 import DataSource as DataSourceProto
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from pydantic import Field
from pyiceberg.catalog import Catalog
from redis import Redis
from sqlalchemy import event
from sqlalchemy.engine import Engine

from lake.catalog import catalog
from lake.credentials import credentials
from lake.settings import settings

DATABASE = USER = "feast"
BATCH = 10_000


@event.listens_for(Engine, "do_connect")
def _registry(_dialect: Any, _record: Any, _arguments: Any, parameters: dict[str, Any]) -> None:
    """Give the registry's connection what `feature_store.yaml` leaves out."""
    if parameters.get("user") == USER and "password" not in parameters:
        parameters |= registry()


def registry() -> dict[str, Any]:
    """Where the registry's database is, as psycopg takes it; holds the password."""
    return {
        "host": settings().host,
        "port": settings().ports.postgres,
        "dbname": DATABASE,
        "user": USER,
        "password": credentials().feast_password,
    }


class LakeSource(IcebergSource):
    """A table of the lake, read on the branch that the process is on."""

    def __init__(self, table: str, **options: Any) -> None:
        namespace, _, name = table.rpartition(".")
        super().__init__(
            name=table,
            namespace=namespace,
            table=name,
            warehouse="",
            catalog_type="sql",
            catalog_name="",
            **options,
        )

    def get_catalog_client(self) -> Catalog:
        return catalog()

    def _to_proto_impl(self) -> DataSourceProto:
        proto = super()._to_proto_impl()
        proto.type = DataSourceProto.CUSTOM_SOURCE
        proto.data_source_class_type = f"{LakeSource.__module__}.{LakeSource.__qualname__}"
        proto.custom_options.configuration = json.dumps({"table": self.name}).encode()
        return proto

    @staticmethod
    def from_proto(data_source: DataSourceProto) -> "LakeSource":
        return LakeSource(
            json.loads(data_source.custom_options.configuration)["table"],
            timestamp_field=data_source.timestamp_field,
            created_timestamp_column=data_source.created_timestamp_column,
            description=data_source.description,
            tags=dict(data_source.tags),
            owner=data_source.owner,
        )


def _valkey() -> str:
    address = f"{settings().host}:{settings().ports.valkey}"
    return f"{address},password={credentials().valkey_password}"


class ValkeyOnlineStoreConfig(RedisOnlineStoreConfig):
    """Feast's settings of the online store; the address is never printed or written."""

    type: Literal["feature_repo.connections.ValkeyOnlineStore"]  # type: ignore[assignment]
    connection_string: str = Field(default_factory=_valkey, repr=False, exclude=True)
    # Feast would keep the old values of a version that was corrected but not dated anew.
    skip_dedup: bool = True


class ValkeyOnlineStore(RedisOnlineStore):
    """Feast's Redis store, that can also say and remove what single entities have online."""

    def client(self, config: RepoConfig) -> Redis:
        connected: Redis = self._get_client(config.online_store)
        return connected

    def entities(self, config: RepoConfig, view: FeatureView) -> Iterator[EntityKey]:
        """The entities that have values of `view` online."""
        project = config.project.encode()
        pattern = serialize_entity_key_prefix(view.join_keys) + b"*" + project
        client = self.client(config)
        for batch in _batches(list(client.scan_iter(pattern, count=BATCH))):
            with client.pipeline(transaction=False) as pipe:
                for key in batch:
                    pipe.hexists(key, _dated(view))
                has = pipe.execute()
            for key, belongs in zip(batch, has, strict=True):
                # The name of another project may end as this one's does: that leaves a rest.
                with suppress(ValueError):
                    entity = deserialize_entity_key(key.removesuffix(project))
                    if belongs:
                        yield entity

    def remove(self, config: RepoConfig, view: FeatureView, entities: Iterable[EntityKey]) -> int:
        """Remove the values of `view` for `entities`; returns how many were there."""
        fields: list[Any] = [_mmh3(f"{view.name}:{feature.name}") for feature in view.features]
        removed = 0
        for batch in _batches(list(entities)):
            with self.client(config).pipeline(transaction=False) as pipe:
                for entity in batch:
                    key: Any = _redis_key(config.project, entity)
                    pipe.hdel(key, _dated(view), *fields)
                removed += sum(bool(count) for count in pipe.execute())
        return removed


def entity_key(join_key: str, value: int) -> EntityKey:
    """The entity that Feast stores under an integer key."""
    return EntityKey(join_keys=[join_key], entity_values=[Value(int64_val=value)])


def _dated(view: FeatureView) -> str:
    """The field that Feast keeps the event time in."""
    return f"_ts:{view.name}"


def _batches(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]
