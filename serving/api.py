"""The registry's champion, asked about loans by their id; features come from the online store."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import mlflow
import pandas as pd
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field
from sklearn.pipeline import Pipeline

from lake import registry
from lake.errors import LakeError

Online = Callable[[list[int]], Mapping[int, Mapping[str, Any] | None]]
"""The features of each loan as they are online; None for a loan that has none."""
LoanId = Annotated[int, Field(ge=0, lt=2**63)]
MOST = 1000


@dataclass(frozen=True)
class Champion:
    """The model that is served: `trained` is what the registry knows of its training."""

    version: str
    pipeline: Pipeline
    trained: Mapping[str, str]
    scores: Mapping[str, float]

    @property
    def features(self) -> list[str]:
        return [str(name) for name in self.pipeline.feature_names_in_]

    def chances(self, rows: Sequence[Mapping[str, Any]]) -> list[float]:
        """How likely each is approved, from 0 to 1; a row holds the model's features at least."""
        frame = pd.DataFrame(list(rows))[self.features]
        return [float(chance) for chance in self.pipeline.predict_proba(frame)[:, 1]]


class Question(BaseModel):
    """Which loans."""

    loan_ids: Annotated[list[LoanId], Field(min_length=1, max_length=MOST)]


class Answer(BaseModel):
    """How likely each loan is approved, and those that have no features online."""

    model_version: str
    approvals: dict[int, float]
    unknown: list[int]


class Model(BaseModel):
    """The model that answers: where it came from, and what it scored on later decisions."""

    name: str
    version: str
    features: list[str]
    trained: dict[str, str]
    scores: dict[str, float]


def champion() -> Champion:
    """Load what is served. Raises LakeError where nothing was trained yet."""
    registry.open_as(registry.READER)
    found = None if registry.is_empty() else registry.champion()
    if found is None:
        raise LakeError("no model was trained yet: `lake train`")
    assert found.run_id
    run = mlflow.get_run(found.run_id).data
    return Champion(str(found.version), registry.load(found), run.params, run.metrics)


def api(model: Champion, online: Online) -> FastAPI:
    """The API over a model."""
    served = FastAPI(title="Loan approval", version=model.version)

    @served.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @served.get("/v1/model")
    def about() -> Model:
        return Model(
            name=registry.MODEL,
            version=model.version,
            features=model.features,
            trained=dict(model.trained),
            scores=dict(model.scores),
        )

    @served.post("/v1/approvals")
    def approvals(question: Question) -> Answer:
        found = online(question.loan_ids)
        known = {loan: row for loan, row in found.items() if row is not None}
        rows = list(known.values())
        if gone := [name for name in model.features if rows and name not in rows[0]]:
            raise HTTPException(503, f"{', '.join(gone)} is served no more: `lake train` again")
        chances = model.chances(rows) if rows else []
        return Answer(
            model_version=model.version,
            approvals=dict(zip(known, chances, strict=True)),
            unknown=[loan for loan in found if loan not in known],
        )

    return served
