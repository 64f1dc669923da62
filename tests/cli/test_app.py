from collections.abc import Callable
from importlib.metadata import EntryPoint, version
from pathlib import Path

import pytest
from typer.testing import Result

from heliograph.cli import app, documentation
from heliograph.cli.exit_codes import HINTS, MEANINGS, ExitCode, exit_code
from heliograph.client import (
    AuthenticationError,
    ClosedError,
    ConnectError,
    HeliographError,
    PublishRefused,
    PublishUncertain,
    RequestTimeout,
    TokenExpiredError,
)

Invoke = Callable[..., Result]


def test_help_lists_every_command_and_the_exit_status(invoke: Invoke) -> None:
    done = invoke("--help")
    assert done.exit_code == 0
    for command in ("publish", "tail", "history", "token", "tenant"):
        assert command in done.stdout
    text = " ".join(done.stdout.split())
    for code, meaning in MEANINGS.items():
        assert f"{code.value} {meaning}" in text


def test_the_version_is_the_packages(invoke: Invoke) -> None:
    assert invoke("--version").stdout == f"heliograph {version('heliograph')}\n"


def test_an_unknown_command_is_a_usage_error(invoke: Invoke) -> None:
    assert invoke("pubish").exit_code == ExitCode.USAGE


def test_a_part_that_is_not_installed_says_how_to_get_it(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "_installed", dict)
    assert "tenant" in invoke("--help").stdout
    done = invoke("tenant", "apply", "file.yaml", "--json")
    assert done.exit_code == ExitCode.FAILED
    assert "pip install 'heliograph[server]'" in done.stderr


def test_a_part_that_can_not_be_loaded_says_so(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = EntryPoint("tenant", "heliograph.nowhere:app", app.COMMANDS_GROUP)
    monkeypatch.setattr(app, "_installed", lambda: {"tenant": broken})
    done = invoke("tenant", "list")
    assert done.exit_code == ExitCode.FAILED
    assert "can't be loaded" in done.stderr


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (AuthenticationError("unauthenticated", ""), ExitCode.UNAUTHORISED),
        (TokenExpiredError("token_expired", ""), ExitCode.UNAUTHORISED),
        (ClosedError.of(4500), ExitCode.UNAUTHORISED),
        (ClosedError.of(4502), ExitCode.UNAUTHORISED),
        (ClosedError.of(4504), ExitCode.FAILED),
        (PublishRefused("backlog", "", "s"), ExitCode.REFUSED),
        (PublishRefused("forbidden", "", "s"), ExitCode.UNAUTHORISED),
        (ConnectError("unreachable", ""), ExitCode.UNREACHABLE),
        (HeliographError("log_unavailable", ""), ExitCode.UNREACHABLE),
        (PublishUncertain("s", None), ExitCode.TIMED_OUT),
        (RequestTimeout("s", "m", 1), ExitCode.TIMED_OUT),
        (HeliographError("internal", ""), ExitCode.FAILED),
    ],
)
def test_each_kind_of_error_has_its_exit_status(error: HeliographError, status: ExitCode) -> None:
    assert exit_code(error) is status


def test_every_exit_status_has_a_meaning_and_every_hint_a_sentence() -> None:
    assert set(MEANINGS) == set(ExitCode)
    assert all(hint for hint in HINTS.values())


def test_the_page_in_docs_is_what_the_commands_say() -> None:
    assert documentation.FILE.read_text() == documentation.rendered(), (
        "docs/cli.md is out of date: run `python -m heliograph.cli.documentation --write`"
    )


def test_the_check_tells_a_page_that_is_out_of_date(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "cli.md"
    assert documentation.main(["--check", "--file", str(page)]) == 1
    assert "out of date" in capsys.readouterr().out
    assert not page.exists()
    assert documentation.main(["--write", "--file", str(page)]) == 0
    assert documentation.main(["--check", "--file", str(page)]) == 0


def test_every_option_is_explained() -> None:
    for entry in documentation.entries():
        for parameter in entry.parameters:
            assert parameter.help, f"{entry.name}: {parameter.name} has no help"
