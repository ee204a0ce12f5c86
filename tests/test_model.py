"""The approval model on the lake of the demo: trained, registered, served as its users do it."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import mlflow
import pandas as pd
import pytest
from sqlalchemy.exc import ProgrammingError

from feature_repo import features
from lake import registry
from lake.settings import settings
from tests.conftest import lake


@pytest.fixture(scope="module")
def trained(demo: str) -> str:
    """The version that `lake train` has registered."""
    done = lake("train")
    assert done.returncode == 0, done.stderr
    assert "it is the champion" in done.stderr
    return done.stderr.partition("version ")[2].partition(":")[0]


@pytest.fixture(scope="module")
def api(trained: str) -> Iterator[str]:
    """Where `lake serve` answers."""
    address = f"http://{settings().host}:{settings().ports.serving}"
    command = [str(Path(sys.executable).with_name("lake")), "serve"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            while True:
                try:
                    urlopen(f"{address}/health").close()
                    break
                except URLError:
                    assert server.poll() is None, server.stderr and server.stderr.read()
                    time.sleep(0.2)
            yield address
        finally:
            server.terminate()


def asked(api: str, body: object) -> dict[str, object]:
    request = Request(
        f"{api}/v1/approvals", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urlopen(request) as answer:
        found: dict[str, object] = json.load(answer)
        return found


def test_the_registry_knows_where_the_champion_came_from(trained: str) -> None:
    registry.open_as(registry.READER)
    served = mlflow.MlflowClient().get_model_version_by_alias(registry.MODEL, registry.CHAMPION)
    assert str(served.version) == trained
    run = mlflow.get_run(served.run_id or "").data
    assert run.metrics["roc_auc"] > 0.85
    frame = features.training_frame()
    counted = int(run.params["trained_rows"]) + int(run.params["judged_rows"])
    assert counted == len(frame)
    assert run.params["publish"].startswith("publish")


def test_the_api_answers_as_the_model_does_in_training(trained: str, api: str) -> None:
    loans = features.training_frame().head(2000)["loan_id"].tolist()[:50]
    online = {loan: row for loan, row in features.online(loans).items() if row}
    registry.open_as(registry.READER)
    model = mlflow.sklearn.load_model(f"models:/{registry.MODEL}/{trained}")
    expected = model.predict_proba(pd.DataFrame(list(online.values())))[:, 1]
    answer = asked(api, {"loan_ids": [*online, 999_999_999]})
    assert answer["model_version"] == trained
    assert answer["unknown"] == [999_999_999]
    approvals = answer["approvals"]
    assert isinstance(approvals, dict)
    assert [approvals[str(loan)] for loan in online] == pytest.approx(list(expected))
    assert len({*expected}) > 10


@pytest.mark.parametrize("body", [{}, {"loan_ids": []}, {"loan_ids": ["x"]}, {"loan_ids": [2**63]}])
def test_a_question_that_makes_no_sense_is_refused(api: str, body: object) -> None:
    with pytest.raises(HTTPError) as refused:
        asked(api, body)
    assert refused.value.code == 422


def test_what_serves_can_not_write_the_registry(trained: str) -> None:
    registry.open_as(registry.READER)
    with pytest.raises(ProgrammingError, match="permission denied"):
        mlflow.MlflowClient().set_registered_model_alias(registry.MODEL, "mine", trained)
