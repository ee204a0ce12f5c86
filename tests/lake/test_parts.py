"""What is fetched is whole and as pinned, or not there at all."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from lake import parts
from lake.errors import LakeError
from lake.parts import Part, Report
from tests.conftest import forget_settings

JAR = "org.slf4j:slf4j-api:2.0.17"
JAR_SHA256 = "7b751d952061954d5abfed7181c1f645d336091b679891591d63329c622eb832"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("LAKE_CACHE_DIR", str(tmp_path))
    forget_settings()
    yield tmp_path
    monkeypatch.undo()
    parts.parts.cache_clear()
    forget_settings()


def fetch_only(monkeypatch: pytest.MonkeyPatch, part: Part) -> None:
    monkeypatch.setattr(parts, "parts", lambda: {part.name: part})
    parts.fetch()


def test_a_jar_comes_from_maven_and_is_as_pinned(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = Part("jar", "1", parts._maven({JAR: JAR_SHA256}))
    fetch_only(monkeypatch, part)
    (jar,) = part.path.iterdir()
    assert hashlib.sha256(jar.read_bytes()).hexdigest() == JAR_SHA256
    assert parts.missing() == []


def test_a_jar_that_is_not_as_pinned_is_refused_and_not_kept(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = Part("jar", "1", parts._maven({JAR: "0" * 64}))
    with pytest.raises(LakeError, match=r"slf4j-api-2\.0\.17\.jar has SHA-256"):
        fetch_only(monkeypatch, part)
    assert not part.path.exists()


def test_a_wheel_that_is_not_as_pinned_is_refused_and_not_kept(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = Part("wheel", "1", parts._wheel("six==1.17.0", ["0" * 64]))
    with pytest.raises(LakeError, match="could not fetch a part"):
        fetch_only(monkeypatch, part)
    assert not part.path.exists()


def test_a_network_that_is_gone_is_one_clear_line(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "PAUSES", (0,))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")  # nobody is there
    part = Part("jar", "1", parts._maven({JAR: JAR_SHA256}))
    with pytest.raises(LakeError, match=r"jar could not be fetched: .*; try again"):
        fetch_only(monkeypatch, part)
    assert not part.path.exists()


def test_what_was_interrupted_is_made_anew(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = True

    def make(target: Path, report: Report) -> None:
        assert list(target.iterdir()) == []
        (target / "half").touch()
        if broken:
            raise KeyboardInterrupt
        (target / "whole").touch()

    part = Part("thing", "1", make)
    with pytest.raises(KeyboardInterrupt):
        fetch_only(monkeypatch, part)
    assert parts.missing() == [part]
    broken = False
    fetch_only(monkeypatch, part)
    assert {file.name for file in part.path.iterdir()} == {"half", "whole"}


def test_a_part_that_settings_bring_is_not_fetched(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAKE_PARTS__JAVA_TRINO", "/usr/lib/jvm/some")
    forget_settings()
    parts.parts.cache_clear()
    assert "java-trino" not in parts.parts()
    assert parts.java("trino") == Path("/usr/lib/jvm/some/bin/java")
