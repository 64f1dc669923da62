"""A service's command line: help, version, check; errors that name the variable; typos."""

import io
import os

import pytest

from heliograph.service.command_line import ExitCode, read_command_line, setting_rows, unknown_variables
from heliograph.service.settings import KafkaSettings, RedisSettings, ServiceSettings, TokenSettings, setting


class Everything(ServiceSettings, KafkaSettings, RedisSettings, TokenSettings):
    """The service's own."""

    max_things: int = setting(10, "Ten is plenty.", unit="things", ge=1)


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("HELIOGRAPH_"):
            monkeypatch.delenv(name)


def read(*argv: str) -> tuple[int | None, str, str]:
    """Exit code (None: it went on), stdout, stderr."""
    out, err = io.StringIO(), io.StringIO()
    try:
        read_command_line(
            Everything, service="thing", version="1.2", summary="Does things.", argv=argv, out=out, err=err
        )
    except SystemExit as leave:
        return int(str(leave.code)), out.getvalue(), err.getvalue()
    return None, out.getvalue(), err.getvalue()


def test_without_options_the_settings_are_read() -> None:
    assert read() == (None, "", "")


def test_help_lists_every_setting_with_default_unit_and_reason() -> None:
    code, out, _ = read("--help")
    assert code == ExitCode.OK
    words = " ".join(out.split())
    for row in setting_rows(Everything):
        assert row.variable in words
        assert row.default in words
        assert row.unit in words
        assert row.reason
    assert "HELIOGRAPH_MAX_THINGS 10 things Ten is plenty." in words
    assert "The service's own:" in out


def test_every_setting_is_in_the_table_once() -> None:
    names = [row.variable for row in setting_rows(Everything)]
    assert len(names) == len(set(names)) == len(Everything.model_fields)
    assert names[0] == "HELIOGRAPH_MAX_THINGS"


def test_help_works_though_the_settings_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIOGRAPH_PORT", "x")
    assert read("--help")[0] == ExitCode.OK


def test_version_is_printed() -> None:
    assert read("--version") == (ExitCode.OK, "heliograph-thing 1.2\n", "")


def test_check_says_that_settings_are_valid() -> None:
    assert read("--check") == (ExitCode.OK, "heliograph-thing: settings are valid\n", "")


def test_an_unknown_option_is_refused() -> None:
    code, _, err = read("--prot=1")
    assert code == ExitCode.SETTINGS
    assert "'--prot=1' is no option" in err


def test_an_error_is_one_line_that_names_variable_value_fault_and_what_is_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HELIOGRAPH_MAX_THINGS", "0")
    monkeypatch.setenv("HELIOGRAPH_LOG_LEVEL", "loud")
    code, out, err = read("--check")
    assert code == ExitCode.SETTINGS
    assert not out
    first, second = sorted(err.splitlines())
    assert first == (
        "HELIOGRAPH_LOG_LEVEL='loud': input should be 'debug', 'info', 'warning' or 'error'; "
        "right: one of debug, info, warning, error (default info)"
    )
    assert second == (
        "HELIOGRAPH_MAX_THINGS='0': input should be greater than or equal to 1; right: things, ≥ 1 (default 10)"
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HELIOGRAPH_REDIS_URL", "hunter2"),
        ("HELIOGRAPH_METADATA_REDIS_URL", "hunter2"),
        ("HELIOGRAPH_KAFKA_PROPERTIES", "sasl.password:hunter2"),
        ("HELIOGRAPH_KAFKA_PROPERTIES", '{"sasl.password": "hunter2", "acks": "hunter2"}'),
        ("HELIOGRAPH_OTLP_ENDPOINT", "collector://user:hunter2@host"),
    ],
)
def test_an_error_never_shows_a_secret(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    code, _, err = read()
    assert code == ExitCode.SETTINGS
    assert name in err
    assert "hunter2" not in err
    assert len(err.splitlines()) == 1


def test_a_long_value_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIOGRAPH_MAX_THINGS", "9" * 5_000)
    assert len(read()[2]) < 400


def test_a_port_that_kubernetes_set_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIOGRAPH_PORT", "tcp://10.0.0.1:8080")
    assert "enableServiceLinks: false" in read()[2]


def test_a_misspelt_variable_is_found_with_what_was_meant() -> None:
    environ = {"HELIOGRAPH_REDIS_ULR": "x", "HELIOGRAPH_ZZZ": "x", "OTHER": "x", "HELIOGRAPH_PORT": "1"}
    assert unknown_variables(Everything, environ) == [
        ("HELIOGRAPH_REDIS_ULR", "HELIOGRAPH_REDIS_URL"),
        ("HELIOGRAPH_ZZZ", None),
    ]


def test_service_links_of_kubernetes_are_no_typos() -> None:
    links = {
        "HELIOGRAPH_EDGE_SERVICE_HOST": "10.0.0.1",
        "HELIOGRAPH_EDGE_SERVICE_PORT": "8080",
        "HELIOGRAPH_EDGE_SERVICE_PORT_HTTP": "8080",
        "HELIOGRAPH_EDGE_PORT": "tcp://10.0.0.1:8080",
        "HELIOGRAPH_EDGE_PORT_8080_TCP": "tcp://10.0.0.1:8080",
        "HELIOGRAPH_EDGE_PORT_8080_TCP_ADDR": "10.0.0.1",
    }
    assert unknown_variables(Everything, links) == []


def test_check_tells_typos_and_still_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIOGRAPH_MAX_THNGS", "1")
    code, _, err = read("--check")
    assert code == ExitCode.OK
    assert err == "HELIOGRAPH_MAX_THNGS: no setting of heliograph-thing; did you mean HELIOGRAPH_MAX_THINGS?\n"
