"""The approval model on the lake of the demo: trained, registered, served as its users do it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pandas as pd
import pytest

from feature_repo import features
from lake import registry
from lake.branches import branch
from lake.catalog import connect
from lake.errors import LakeError
from lake.settings import settings
from serving.api import champion
from tests.conftest import lake


@pytest.fixture(scope="module", autouse=True)
def environment_as_before() -> Iterator[None]:
    """Opening the registry leaves its keys in the environment, where MLflow looks for them."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


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


def test_nothing_is_served_before_a_model_was_trained(lake_stack: Path) -> None:
    done = lake("serve")
    assert done.returncode == 2
    assert done.stderr == "error: no model was trained yet: `lake train`\n"


def test_the_registry_knows_where_the_champion_came_from(trained: str) -> None:
    served = champion()
    assert served.version == trained
    assert served.scores["roc_auc"] > 0.85
    assert "person_gender" not in served.features
    assert "credit_score" in served.features
    counted = int(served.trained["trained_rows"]) + int(served.trained["judged_rows"])
    assert counted == len(features.training_frame())
    assert served.trained["publish"] == branch.pin()


def test_the_api_answers_as_the_model_does(trained: str, api: str) -> None:
    loans = features.training_frame()["loan_id"].tolist()[:200]
    online = {loan: row for loan, row in features.online(loans).items() if row}
    assert len(online) > 100
    expected = champion().pipeline.predict_proba(pd.DataFrame(list(online.values())))[:, 1]
    answer = asked(api, {"loan_ids": [*online, 999_999_999]})
    assert answer["model_version"] == trained
    assert answer["unknown"] == [999_999_999]
    approvals = answer["approvals"]
    assert isinstance(approvals, dict)
    assert [approvals[str(loan)] for loan in online] == pytest.approx(list(expected))
    assert len({*expected}) > 100


@pytest.mark.parametrize("body", [{}, {"loan_ids": []}, {"loan_ids": ["x"]}, {"loan_ids": [2**63]}])
def test_a_question_that_makes_no_sense_is_refused(api: str, body: object) -> None:
    with pytest.raises(HTTPError) as refused:
        asked(api, body)
    assert refused.value.code == 422


def test_what_trains_can_not_open_the_catalog(lake_stack: Path) -> None:
    with pytest.raises(LakeError, match="permission denied for database"):
        connect(registry.OWNER)


def test_what_serves_can_not_write_the_registry(trained: str) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    champion()  # opens the registry as what serves
    with pytest.raises(MlflowException, match="permission denied"):
        MlflowClient().set_registered_model_alias(registry.MODEL, "mine", trained)
