"""What Feast serves: `feast apply` in this folder registers it.

Names, types and descriptions of features are the contract's: the columns of `ftr_loans` in the
dbt project. A feature is added there, and nowhere else.
"""

from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field
from feast.types import Bool, Float64, Int32, Int64, PrimitiveFeastType, String
from feast.value_type import ValueType

from feature_repo.connections import LakeSource
from lake.errors import LakeError
from lake.manifest import manifest

KEY = "loan_id"
EVENT, CREATED = "event_timestamp", "created_timestamp"
TYPES: dict[str, PrimitiveFeastType] = {
    "bigint": Int64,
    "boolean": Bool,
    "double precision": Float64,
    "integer": Int32,
    "text": String,
}


def fields(model: str) -> list[Field]:
    """The features that a model of gold declares: its columns but for keys and times.

    Raises LakeError where the model is missing, or a column's type is no feature's.
    """
    node = manifest()["nodes"].get(f"model.lakehouse.{model}")
    if node is None:
        raise LakeError(f"dbt_project declares no model `{model}`: features are its columns")
    found = []
    for column in node["columns"].values():
        name, kind = column["name"], column["data_type"]
        if name in (KEY, EVENT, CREATED) or name.startswith("_"):
            continue
        if kind not in TYPES:
            raise LakeError(f"{model}.{name}: a feature can't be `{kind}`; use {', '.join(TYPES)}")
        found.append(Field(name=name, dtype=TYPES[kind], description=column["description"]))
    return found


loan = Entity(
    name="loan",
    join_keys=[KEY],
    value_type=ValueType.INT64,
    description="An application for a loan.",
)

loan_features = FeatureView(
    name="loan_features",
    description="A loan and its applicant, as of each moment at which they changed.",
    entities=[loan],
    schema=[Field(name=KEY, dtype=Int64), *fields("ftr_loans")],
    source=LakeSource("gold.ftr_loans", timestamp_field=EVENT, created_timestamp_column=CREATED),
    ttl=timedelta(0),  # a loan's features hold until they change
)

loan_approval = FeatureService(
    name="loan_approval_v1",
    description="What the approval model is trained on and asked with.",
    features=[loan_features],
)
