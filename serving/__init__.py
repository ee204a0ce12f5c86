"""The approval model behind an API."""

import os

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read when it is imported
