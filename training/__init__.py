"""The approval model: train, evaluate, register."""

import os

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read when it is imported
