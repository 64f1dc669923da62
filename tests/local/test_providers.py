"""Where Kafka and Redis come from, and what is said where they can't be had."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from heliograph.local import compose, java, providers, redis
from heliograph.local.compose import ComposeKafka, ComposeRedis, compose_problem
from heliograph.local.errors import CannotProvideError, NotReadyError
from heliograph.local.kafka import KafkaServer
from heliograph.local.providers import GivenKafka, GivenRedis, provide_kafka, provide_redis
from heliograph.local.redis import RedisServer
from heliograph.local.up import _without_password

Bin = Callable[[str, str], None]


@pytest.fixture
def path_bin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bin:
    """PATH is one folder of this test's own, which this fills with scripts; nothing is given by the environment."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for variable in ("KAFKA_BOOTSTRAP_SERVERS", "REDIS_URL"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    compose_problem.cache_clear()

    def write(name: str, script: str) -> None:
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    return write


@pytest.fixture(autouse=True)
def _forget_docker() -> Any:
    yield
    compose_problem.cache_clear()


def test_without_anything_each_way_to_kafka_is_named(path_bin: Bin, tmp_path: Path) -> None:
    with pytest.raises(CannotProvideError) as caught:
        provide_kafka(tmp_path)
    said = str(caught.value)
    assert "KAFKA_BOOTSTRAP_SERVERS is not set" in said
    assert "docker is not on PATH" in said
    assert "java is not on PATH: Java 17 or newer" in said


def test_without_anything_each_way_to_redis_is_named(path_bin: Bin, tmp_path: Path) -> None:
    with pytest.raises(CannotProvideError) as caught:
        provide_redis(tmp_path)
    said = str(caught.value)
    assert "REDIS_URL is not set" in said
    assert "redis-server is not on PATH (Debian: apt-get install redis-server)" in said


def test_an_old_java_is_named_with_its_version(path_bin: Bin, tmp_path: Path) -> None:
    path_bin("java", "echo 'openjdk version \"11.0.2\" 2019-01-15' >&2")
    with pytest.raises(CannotProvideError, match=r"version 11, Kafka 4\.1\.1 needs 17"):
        provide_kafka(tmp_path)


def test_a_missing_maven_is_named_only_where_jars_must_be_fetched(path_bin: Bin, tmp_path: Path) -> None:
    path_bin("java", "echo 'openjdk version \"21\" 2023-09-19' >&2")
    with pytest.raises(CannotProvideError, match="mvn is not on PATH"):
        provide_kafka(tmp_path)
    java.libs_dir().mkdir(parents=True)
    assert isinstance(provide_kafka(tmp_path), KafkaServer)


def test_jars_that_maven_could_not_fetch_leave_no_half_folder_and_are_fetched_next_time(
    path_bin: Bin, tmp_path: Path
) -> None:
    path_bin("java", "echo 'openjdk version \"17.0.1\"' >&2")
    path_bin("mvn", "echo 'no route to repo.maven.apache.org'; exit 1")
    with pytest.raises(CannotProvideError, match="no route to"):
        java.prepare_jars()
    assert not java.libs_dir().exists()
    path_bin("mvn", 'for last; do :; done; echo jar > "${last#-DoutputDirectory=}/kafka.jar"')
    assert [jar.name for jar in java.prepare_jars().iterdir()] == ["kafka.jar"]


def test_an_old_redis_is_named_with_its_version(path_bin: Bin, tmp_path: Path) -> None:
    path_bin("redis-server", "echo 'Redis server v=6.2.7 sha=00000000'")
    with pytest.raises(CannotProvideError, match=r"version 6\.2, 7\.0 or newer is needed"):
        provide_redis(tmp_path)


def test_redis_is_installed_from_debian_by_root_where_absent(
    path_bin: Bin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    server = tmp_path / "bin" / "redis-server"
    install = f"printf '#!/bin/sh\\necho v=7.0.15\\n' > {server} && /bin/chmod +x {server}"
    path_bin("apt-get", f'echo "$@" >> {tmp_path}/asked; case "$*" in *install*) {install};; esac')
    said: list[str] = []
    assert isinstance(provide_redis(tmp_path, progress=said.append), RedisServer)
    assert (tmp_path / "asked").read_text().splitlines() == [
        "-qq update",
        "-qq install --yes --no-install-recommends redis-server",
    ]
    assert said == ["installing redis-server with apt-get (once)"]


def test_what_the_environment_gives_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setenv("REDIS_URL", "redis://user:secret@127.0.0.1:1/0")
    kafka, redis_ = provide_kafka(tmp_path), provide_redis(tmp_path)
    assert isinstance(kafka, GivenKafka)
    assert isinstance(redis_, GivenRedis)
    assert kafka.bootstrap_servers == "127.0.0.1:1"
    with pytest.raises(CannotProvideError, match="not ours to kill"):
        kafka.kill()


def test_a_given_redis_that_does_not_answer_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "GIVEN_TIMEOUT_S", 0.0)
    with pytest.raises(NotReadyError, match=r"redis at 127\.0\.0\.1:1 does not answer") as caught:
        GivenRedis("redis://user:secret@127.0.0.1:1/0").start()
    assert "secret" not in str(caught.value)


def test_a_given_redis_may_be_a_cluster_or_behind_sentinel(redis_cluster_url: str) -> None:
    GivenRedis(redis_cluster_url).start()
    sentinels = GivenRedis("redis+sentinel://user:secret@127.0.0.1:1,127.0.0.1:2/main?sentinel_password=secret")
    assert not sentinels.running
    with pytest.raises(CannotProvideError) as caught:
        sentinels.kill()
    assert "secret" not in str(caught.value)
    assert _without_password(sentinels.url) == "redis+sentinel://127.0.0.1:1,127.0.0.1:2/main"


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("exit 1", "gets no answer from a daemon"),
        ('[ "$1" = info ]', "has no `docker compose` command"),
    ],
)
def test_docker_counts_only_where_its_daemon_and_compose_answer(path_bin: Bin, script: str, problem: str) -> None:
    path_bin("docker", script)
    found = compose_problem()
    assert found is not None
    assert problem in found


def test_compose_is_used_where_docker_answers_with_a_project_and_port_of_ones_own(
    path_bin: Bin, tmp_path: Path
) -> None:
    asked = tmp_path / "asked"
    ports = "${HELIOGRAPH_LOCAL_KAFKA_PORT:-} ${HELIOGRAPH_LOCAL_REDIS_PORT:-} ${HELIOGRAPH_LOCAL_REDIS_ARGUMENTS:-}"
    path_bin("docker", f'echo "{ports} | $@" >> {asked}')
    kafka = provide_kafka(tmp_path / "a", 12001)
    redis_ = provide_redis(tmp_path / "a", 12002, appendonly=True)
    assert isinstance(kafka, ComposeKafka)
    assert isinstance(redis_, ComposeRedis)
    kafka.launch()
    redis_.launch()
    redis_.remove()
    lines = asked.read_text().splitlines()
    assert lines[0].endswith("| info")
    up = [line for line in lines if "up --detach" in line]
    assert up[0].startswith("12001 ")
    assert up[0].endswith("up --detach --no-deps kafka")
    assert " 12002 --appendonly yes |" in up[1]
    assert f"--project-name {kafka.project}" in up[0]
    assert lines[-1].endswith("rm --stop --force --volumes redis")
    assert kafka.project == redis_.project != ComposeKafka(providers.project_name(tmp_path / "b")).project


def test_the_compose_file_is_plain_and_pinned_and_listens_on_loopback_only() -> None:
    content = yaml.safe_load(compose.FILE.read_text())
    stores = {name: service for name, service in content["services"].items() if "profiles" not in service}
    assert set(stores) == {"kafka", "redis"}
    for service in stores.values():
        assert ":" in service["image"]
        assert not service["image"].endswith(":latest")
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert service["healthcheck"]["test"]
        assert all(isinstance(value, str) for value in service.get("environment", {}).values())
    assert content["services"]["kafka"]["image"] == f"apache/kafka:{java.KAFKA_VERSION}"
    assert "noeviction" in content["services"]["redis"]["command"]


def test_the_compose_file_advertises_the_port_that_it_publishes() -> None:
    kafka = yaml.safe_load(compose.FILE.read_text())["services"]["kafka"]
    host, port, inside = kafka["ports"][0].split(":", 1)[0], "${HELIOGRAPH_LOCAL_KAFKA_PORT:-19092}", "19092"
    assert kafka["ports"][0] == f"{host}:{port}:{inside}"
    assert f"HOST://127.0.0.1:{port}" in kafka["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert f"HOST://:{inside}" in kafka["environment"]["KAFKA_LISTENERS"]


def test_the_pom_names_the_version_that_the_code_names() -> None:
    assert java.POM.read_text().count(f"<version>{java.KAFKA_VERSION}</version>") == 2


def test_a_redis_that_another_one_pushed_off_its_port_is_not_taken_for_ready(
    redis_server: Callable[..., RedisServer], tmp_path: Path
) -> None:
    first = redis_server()
    second = RedisServer(tmp_path / "second", first.port)
    with pytest.raises(NotReadyError, match="Address already in use"):
        second.start()
    assert redis.serving_pid(first.port) is not None


def test_prepare_says_what_is_missing_and_fails(tmp_path: Path) -> None:
    environment = {"PATH": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "heliograph.local", "prepare", "--state", str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "no Kafka to be had" in done.stderr
    assert "Traceback" not in done.stderr
    assert json.dumps(sorted(path.name for path in tmp_path.iterdir())) == "[]"
