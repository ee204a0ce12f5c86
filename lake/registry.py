"""The model registry: MLflow's, in a database of its own, with the models in the lake's bucket.

Training writes it and serving reads it: neither knows the other.
"""

import logging
import os
from typing import TYPE_CHECKING

from lake.catalog import connect
from lake.credentials import Role, credentials
from lake.object_store import REGION
from lake.settings import settings

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from sklearn.pipeline import Pipeline

DATABASE = "mlflow"
OWNER: Role = "trainer"
READER: Role = "reader"
MODEL = "loan_approval"
CHAMPION = "champion"
"""The alias of the version that is served."""


def open_as(role: Role) -> None:
    """Have MLflow in this process work on the lake's registry: OWNER writes, READER reads it."""
    import mlflow  # heavy

    secrets = credentials().roles[role]
    os.environ |= {
        "MLFLOW_S3_ENDPOINT_URL": settings().s3_endpoint,
        "AWS_ACCESS_KEY_ID": role,
        "AWS_SECRET_ACCESS_KEY": secrets.s3_secret_key,
        "AWS_DEFAULT_REGION": REGION,
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    address = f"{settings().host}:{settings().ports.postgres}/{DATABASE}"
    mlflow.set_tracking_uri(f"postgresql+psycopg://{role}:{secrets.password}@{address}")


def is_empty() -> bool:
    """Whether nothing was ever registered: MLflow makes its tables when something is."""
    with connect(READER, DATABASE) as connection:
        found = connection.execute("select to_regclass('registered_models') is null").fetchone()
    return found == (True,)


def champion() -> "ModelVersion | None":
    """The version that is served, in the registry that is open; None where there is none."""
    from mlflow import MlflowClient  # heavy
    from mlflow.exceptions import MlflowException

    try:
        return MlflowClient().get_model_version_by_alias(MODEL, CHAMPION)
    except MlflowException as error:  # there is no such model, or it has no such alias
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def load(version: "ModelVersion") -> "Pipeline":
    """A version's model."""
    import mlflow  # heavy

    return mlflow.sklearn.load_model(f"models:/{version.name}/{version.version}")
