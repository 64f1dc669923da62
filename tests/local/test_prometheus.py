"""Where Prometheus' programs come from."""

from pathlib import Path

import pytest

from heliograph.local.errors import CannotProvideError
from heliograph.local.prometheus import Programs, provide_prometheus


def program(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.fixture
def path_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The one directory of PATH; nothing is in the cache."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "bin"


def test_those_of_path_are_taken_as_they_are(path_only: Path) -> None:
    found = Programs(program(path_only / "prometheus"), program(path_only / "promtool"))
    assert provide_prometheus() == found
    assert not (path_only.parent / "cache").exists()


def test_those_in_the_cache_are_not_fetched_again(path_only: Path) -> None:
    kept = path_only.parent / "cache" / "heliograph" / "prometheus"
    found = Programs(program(kept / "prometheus"), program(kept / "promtool"))
    program(path_only / "prometheus")  # half of it is none
    assert provide_prometheus() == found


def test_a_machine_that_has_no_packages_is_told_what_to_install(path_only: Path) -> None:
    with pytest.raises(CannotProvideError, match="install Prometheus"):
        provide_prometheus()


def test_a_download_that_fails_says_so_and_leaves_nothing_half_done(path_only: Path) -> None:
    program(path_only / "apt-get", "exit 100")
    with pytest.raises(CannotProvideError, match="can't download prometheus"):
        provide_prometheus()
    assert not (path_only.parent / "cache" / "heliograph" / "prometheus").exists()
