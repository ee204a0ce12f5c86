"""Train the approval model on decided loans, judge it on later ones, register it.

The model is one pipeline: it takes the features as Feast serves them, so what is done to them in
training is what is done to them in serving.
"""

import time
from collections.abc import Mapping
from contextlib import redirect_stderr
from dataclasses import asdict, dataclass
from importlib.metadata import version
from io import StringIO

import mlflow
import numpy as np
import pandas as pd
from lightgbm import LGBMClassifier
from mlflow.models import infer_signature
from sklearn.compose import ColumnTransformer
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder

from lake import registry
from lake.errors import LakeError
from lake.object_store import MODELS
from lake.settings import settings

KEY, EVENT, LABEL = "loan_id", "event_timestamp", "loan_status"
FORBIDDEN = ("person_gender",)
"""What a loan may not be decided by (in the United States by the Equal Credit Opportunity Act)."""
HELD_OUT = 0.2
"""So much of the decisions, the last ones, are what a model is judged by."""
FEWEST = 500
"""Decided loans; fewer tell nothing."""


@dataclass(frozen=True)
class Scores:
    """How well a model tells approved loans from refused ones that it was not trained on."""

    roc_auc: float
    average_precision: float
    log_loss: float


@dataclass(frozen=True)
class Trained:
    """A registered version; `champion` is what the one that was served so far scores, if any.

    It is the champion now if `is_champion`: on the same loans it scores no less.
    """

    version: str
    scores: Scores
    champion: Scores | None
    is_champion: bool
    trained_rows: int
    judged_rows: int
    seconds: float


def train(frame: pd.DataFrame, publish: str, code_version: str | None) -> Trained:
    """Train on a frame of decided loans, and register the model and where it came from.

    `frame` has a row a loan: its key, the time of its decision, `loan_status` (1 approved, 0
    refused) and features as of then, any columns. `publish` names what it was read from.

    Raises LakeError where it holds too few decisions, or of one kind only.
    """
    began = time.monotonic()
    early, late = split(frame)
    features = features_of(frame)
    model = pipeline(early[features]).fit(early[features], early[LABEL])
    scores = judge(model, late)
    registry.open_as(registry.OWNER)
    champion = _champion(features)
    known = judge(champion, late) if champion else None
    trained_on = {
        "publish": publish,
        "code_version": code_version,
        "decided_until": f"{early[EVENT].max():%Y-%m-%d %H:%M:%S}",
        "trained_rows": len(early),
        "judged_rows": len(late),
    }
    registered = _register(model, early[features], trained_on, scores)
    is_champion = known is None or scores.roc_auc >= known.roc_auc
    if is_champion:
        client = mlflow.MlflowClient()
        client.set_registered_model_alias(registry.MODEL, registry.CHAMPION, registered)
    seconds = time.monotonic() - began
    return Trained(registered, scores, known, is_champion, len(early), len(late), seconds)


def features_of(frame: pd.DataFrame) -> list[str]:
    """The columns of a frame that a model learns from."""
    return [name for name in frame.columns if name not in (KEY, EVENT, LABEL, *FORBIDDEN)]


def split(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The earlier decisions, to train on, and the later ones. Raises LakeError as `train`."""
    if len(frame) < FEWEST:
        raise LakeError(f"{len(frame)} decided loans are too few to train on: it takes {FEWEST}")
    ordered = frame.sort_values([EVENT, KEY])
    cut = round(len(ordered) * (1 - HELD_OUT))
    parts = ordered.iloc[:cut], ordered.iloc[cut:]
    if any(part[LABEL].nunique() < 2 for part in parts):
        raise LakeError("the decided loans are all approved, or all refused: nothing to learn")
    return parts


def pipeline(features: pd.DataFrame) -> Pipeline:
    """An untrained model for features of these columns and types."""
    numbers = list(features.select_dtypes(["number", "bool"]).columns)
    words = [name for name in features.columns if name not in numbers]
    # A word that was never seen is none of the known ones; a missing one is a word too.
    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    as_floats = FunctionTransformer(
        np.asarray, kw_args={"dtype": "float64"}, feature_names_out="one-to-one"
    )
    columns = ColumnTransformer([("words", encoder, words), ("numbers", as_floats, numbers)])
    return make_pipeline(columns, LGBMClassifier(random_state=7, verbose=-1))


def judge(model: Pipeline, loans: pd.DataFrame) -> Scores:
    """What a model scores on loans that it was not trained on."""
    chance = model.predict_proba(loans[list(model.feature_names_in_)])[:, 1]
    label = loans[LABEL]
    return Scores(
        float(roc_auc_score(label, chance)),
        float(average_precision_score(label, chance)),
        float(log_loss(label, chance)),
    )


def _champion(features: list[str]) -> Pipeline | None:
    """The version that is served; None where there is none, or it needs features that are gone."""
    served = registry.champion()
    if served is None:
        return None
    model = registry.load(served)
    return model if set(model.feature_names_in_) <= set(features) else None


def _register(
    model: Pipeline, learned: pd.DataFrame, trained_on: Mapping[str, object], scores: Scores
) -> str:
    """Keep a model, and what is known of it; returns its version."""
    with mlflow.start_run(experiment_id=_experiment()), redirect_stderr(StringIO()):
        mlflow.log_params({**trained_on})
        mlflow.log_metrics(asdict(scores))
        kept = mlflow.sklearn.log_model(
            model,
            name=registry.MODEL,
            registered_model_name=registry.MODEL,
            signature=infer_signature(learned.convert_dtypes(convert_integer=False)),
            serialization_format="cloudpickle",
            pip_requirements=[f"{name}=={version(name)}" for name in ("lightgbm", "scikit-learn")],
        )
    return str(kept.registered_model_version)


def _experiment() -> str:
    found = mlflow.get_experiment_by_name(registry.MODEL)
    if found:
        return str(found.experiment_id)
    return str(mlflow.create_experiment(registry.MODEL, f"s3://{settings().bucket}/{MODELS}"))
