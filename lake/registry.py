"""The model registry: MLflow's, in a database of its own, with the models in the lake's bucket.

Training writes it and serving reads it: neither knows the other.
"""

import logging
import os

from lake.credentials import Role, credentials
from lake.object_store import REGION
from lake.settings import settings

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
