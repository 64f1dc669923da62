"""Apache Kafka without Docker: a Java to run it, and its jars, fetched once by Maven into the user's cache folder."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from heliograph.local.cache import cache_dir, file_lock
from heliograph.local.errors import CannotProvideError

KAFKA_VERSION = "4.1.1"
JAVA_NEEDED = 17
"""Kafka 4's brokers need it (KIP-1013)."""
FETCH_TIMEOUT_S = 900
"""100 MB of jars over a slow line."""
COPY_GOAL = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"

Progress = Callable[[str], None]

POM = Path(__file__).parents[3] / "kafka" / "pom.xml"


def java_version(java: str = "java") -> int | None:
    """The major version of the Java on PATH; None without one."""
    found = shutil.which(java)
    if found is None:
        return None
    shown = subprocess.run([found, "-version"], capture_output=True, text=True, check=False)
    match = re.search(r'version "(?:1\.)?(\d+)', shown.stderr + shown.stdout)
    return int(match.group(1)) if match else None


def java_problem() -> str | None:
    """Why the broker can't run on this machine's Java; None where it can."""
    version = java_version()
    if version is None:
        return f"java is not on PATH: Java {JAVA_NEEDED} or newer (Debian: apt-get install openjdk-17-jre-headless)"
    if version < JAVA_NEEDED:
        return f"java on PATH is version {version}, Kafka {KAFKA_VERSION} needs {JAVA_NEEDED} or newer"
    return None


def libs_dir() -> Path:
    return cache_dir() / f"kafka-{KAFKA_VERSION}" / "libs"


def prepare_jars(progress: Progress = lambda _line: None) -> Path:
    """The folder with Kafka's jars, fetched by Maven where it isn't there yet. Safe to call from many processes.

    Maven gets a repository of its own inside the cache folder, removed afterwards: `~/.m2` is not ours to fill (a
    `settings.xml` with mirrors there is read). Jars appear under their final name only when all of them are there.
    """
    problem = java_problem()
    if problem is not None:
        raise CannotProvideError(problem)
    libs = libs_dir()
    if libs.is_dir():
        return libs
    with file_lock(cache_dir() / f"kafka-{KAFKA_VERSION}.lock"):
        if libs.is_dir():
            return libs
        mvn = shutil.which("mvn")
        if mvn is None:
            raise CannotProvideError("mvn is not on PATH, it fetches Kafka's jars (Debian: apt-get install maven)")
        progress(f"fetching Apache Kafka {KAFKA_VERSION} with Maven into {libs.parent} (once)")
        partial = libs.parent / "partial"
        repository = libs.parent / "repository"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        command = [mvn, "--batch-mode", "--quiet", "--strict-checksums", "--file", str(POM)]
        command += [f"-Dmaven.repo.local={repository}", COPY_GOAL, f"-DoutputDirectory={partial}"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=FETCH_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise CannotProvideError(f"mvn did not fetch Kafka's jars within {FETCH_TIMEOUT_S} s") from None
        if done.returncode != 0:
            lines = "\n".join((done.stdout + done.stderr).strip().splitlines()[-10:])
            raise CannotProvideError(f"mvn could not fetch Kafka's jars:\n{lines}")
        partial.rename(libs)
        shutil.rmtree(repository, ignore_errors=True)
    return libs
