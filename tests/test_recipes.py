"""Every recipe of the docs that can be run here, as it stands there but for the port."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from py4j.java_gateway import JavaGateway

from benchmarks.engines import questions
from lake import parts
from lake.parts import Part
from lake.settings import ROOT, settings
from lake.stack import trino

JARS = {
    "io.trino:trino-cli:476:jar:executable": (
        "fe4e9c7fb569cd67673afa1622945f6308e1e59bdb825419352b80887661757b"
    ),
    "io.trino:trino-jdbc:476": "a3736d21609a5a317d2ce88b3835e312e9b6f41393c1d4b09f2ad6e7aeb3bb90",
}
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def recipes(language: str, word: str, document: str = "querying.md") -> list[str]:
    """A document's blocks in a language that hold a word, with this stack's port."""
    text = (ROOT / "docs" / document).read_text()
    port = str(settings().ports.trino)
    found = [block for kind, block in FENCED.findall(text) if kind == language and word in block]
    return [block.replace("18080", port) for block in found]


def printed(command: list[str], directory: Path, **environment: str) -> str:
    """What a command prints, which must not fail."""
    done = subprocess.run(
        command, cwd=directory, env=os.environ | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def loans(demo: str) -> str:
    """How many loans gold has, as text."""
    ((count,),) = trino.ask("select count(*) from lake.gold.fct_loans")
    assert count > 0
    return str(count)


@pytest.fixture(scope="session")
def jars(lake_stack: Path) -> Path:
    """Where Trino's command line and JDBC driver are, in the cache once they were fetched."""
    part = Part("trino-clients-jars", parts._digest(JARS), parts._maven(JARS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "parts", lambda: {part.name: part})
        parts.fetch()
    return part.path


@pytest.mark.parametrize("word", ["dbapi", "sqlalchemy"])
def test_a_python_recipe_counts_the_loans(loans: str, tmp_path: Path, word: str) -> None:
    (recipe,) = recipes("python", word)
    assert printed([sys.executable, "-c", recipe], tmp_path) == f"{loans}\n"


def test_the_readme_shows_a_python_recipe_that_runs(demo: str, tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text()
    (recipe,) = [block for _, block in FENCED.findall(text) if "trino.dbapi" in block]
    program = recipe.replace("18080", str(settings().ports.trino)) + "print(len(rows) > 0)\n"
    assert printed([sys.executable, "-c", program], tmp_path) == "True\n"


def test_trinos_own_command_line_counts_the_loans(loans: str, jars: Path) -> None:
    (recipe,) = recipes("sh", "trino-cli")
    path = f"{parts.java('trino').parent}:{os.environ['PATH']}"
    assert printed(["sh", "-c", recipe], jars, PATH=path) == f"{loans}\n"


def test_each_line_of_lake_sql_runs(loans: str, tmp_path: Path) -> None:
    (recipe,) = recipes("sh", "lake sql")
    once, to_csv, *_ = recipe.replace("uv run ", "").splitlines()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    assert printed(["sh", "-c", once], tmp_path, PATH=path).split()[-1] == loans
    printed(["sh", "-c", to_csv], tmp_path, PATH=path)
    assert len((tmp_path / "approvals.csv").read_text().splitlines()) > 1


def test_the_jdbc_url_opens_the_lake(loans: str, jars: Path) -> None:
    (url,) = recipes("", "jdbc:trino")
    (driver,) = jars.glob("trino-jdbc-*.jar")
    java = JavaGateway.launch_gateway(
        classpath=str(driver), java_path=str(parts.java("trino")), die_on_exit=True
    )
    try:
        connection = java.jvm.java.sql.DriverManager.getConnection(url.strip())
        query = "select count(*) from fct_loans"
        rows = connection.createStatement().executeQuery(query)
        assert rows.next()
        assert str(rows.getLong(1)) == loans
    finally:
        java.shutdown()


def test_each_query_of_what_is_found_out_about_rows_has_an_answer(demo: str) -> None:
    asked = recipes("sql", "select", "quality.md")
    assert len(asked) == 4
    empty = [query for query in asked if not trino.ask(query)]
    assert all("status in ('fail'" in query for query in empty), "nothing need have failed"


def test_the_questions_of_the_readme_have_answers(demo: str) -> None:
    asked = questions()
    assert len(asked) == 5
    for question in asked:
        assert trino.ask(question), question
