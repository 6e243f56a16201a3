"""Settings from flags and variables: exact values, and one clear line for every way to get them wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from exchange.settings import SettingError, setting_docs
from server.settings import ServerSettings, read_settings, variables_help

CONFIG = """
port: 9000
deadline_ms: 300
students: {gpt: {base_url: https://api.example.com/v1, timeout_s: 5}}
"""
NO_FLAGS: dict[str, str | None] = {"host": None, "port": None, "teacher": None}


def test_defaults() -> None:
    assert read_settings(NO_FLAGS, {}) == ServerSettings(
        host="127.0.0.1",
        port=8000,
        teacher=None,
        deadline_ms=2000,
        batch_window_ms=2,
        teacher_batch=32,
        max_queued=256,
        max_query_chars=32_000,
        max_body_bytes=262_144,
        max_batch_items=64,
        shutdown_grace_s=10,
        log_level="info",
    )


def test_flags_go_before_variables_and_empty_variables_are_unset() -> None:
    environ = {"WST_PORT": "9000", "WST_TEACHER": "runs/a", "WST_DEADLINE_MS": "300", "WST_HOST": ""}
    settings = read_settings({**NO_FLAGS, "port": "9001"}, environ)
    assert (settings.port, settings.teacher, settings.deadline_ms, settings.host) == (9001, "runs/a", 300, "127.0.0.1")


def test_the_config_file_goes_below_variables_and_flags(tmp_path: Path) -> None:
    file = tmp_path / "wst.yaml"
    file.write_text(CONFIG)
    settings = read_settings({**NO_FLAGS, "config": str(file), "port": "9002"}, {"WST_PORT": "9001", "WST_DEADLINE_MS": "400"})
    assert (settings.port, settings.deadline_ms, settings.students["gpt"].timeout_s) == (9002, 400, 5)
    assert read_settings(NO_FLAGS, {"WST_CONFIG": str(file)}).port == 9000
    file.write_text("prot: 1")
    with pytest.raises(SettingError, match=rf"^{file}: prot=1: no such setting; did you mean port"):
        read_settings({**NO_FLAGS, "config": str(file)}, {})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_hosts(host: str) -> None:
    assert read_settings({**NO_FLAGS, "host": host}, {}).host == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", "localhost.evil.org", "2130706433", "", " "])
def test_other_hosts_are_refused(host: str) -> None:
    with pytest.raises(SettingError, match=r"^--host='.*': no keys are configured, so only loopback is served"):
        read_settings({**NO_FLAGS, "host": host}, {})


@pytest.mark.parametrize(
    ("flags", "environ", "line"),
    [
        ({"port": "abc"}, {}, "--port='abc': input should be a valid integer"),
        ({"port": "65536"}, {}, "--port='65536': input should be less than or equal to 65535"),
        ({"port": "-1"}, {}, "--port='-1': input should be greater than or equal to 0"),
        ({}, {"WST_PORT": "8000x"}, "WST_PORT='8000x': input should be a valid integer"),
        ({}, {"WST_PORT": "tcp://10.0.0.1:80"}, "enableServiceLinks: false"),
        ({}, {"WST_DEADLINE_MS": "0"}, "WST_DEADLINE_MS='0': input should be greater than or equal to 1"),
        ({}, {"WST_DEADLINE_MS": "nan"}, "WST_DEADLINE_MS='nan': input should be a valid integer"),
        ({}, {"WST_LOG_LEVEL": "loud"}, "WST_LOG_LEVEL='loud': input should be 'debug', 'info', 'warning' or 'error'"),
        ({}, {"WST_HOST": "0.0.0.0"}, "WST_HOST='0.0.0.0': no keys are configured"),
        ({}, {"WST_PROT": "1"}, "WST_PROT='1': no such setting; did you mean WST_PORT?"),
        ({}, {"wst_port": "1"}, "wst_port='1': no such setting; did you mean WST_PORT?"),
        ({}, {"WST_DEADLINE": "1"}, "did you mean WST_DEADLINE_MS?"),
        ({}, {"WST_TEACHRE": "x"}, "did you mean WST_TEACHER?"),
        ({}, {"WST_TEACHERS": "x"}, "WST_TEACHERS='x': input should be a valid dictionary"),
        ({}, {"WST_TEACHERS": "{a: {"}, "WST_TEACHERS: not valid YAML or JSON"),
        ({}, {"WST_TEACHERS": "{a: {text: x, folder: y}}"}, "WST_TEACHERS.a="),
        ({}, {"WST_STUDENTS": "{m: {base_url: ftp://x}}"}, "WST_STUDENTS.m.base_url='ftp://x': a URL begins with http"),
        ({}, {"WST_STUDENTS": "{m: {base_url: 'http://x/v1', modle: x}}"}, "WST_STUDENTS.m.modle"),
        ({}, {"WST_CONFIG": "/nowhere.yaml"}, "/nowhere.yaml: cannot be read"),
        ({}, {"WST_RUN_DIR": "x"}, "did you mean WST_RUNS_DIR?"),
    ],
)
def test_bad_settings(flags: dict[str, str], environ: dict[str, str], line: str) -> None:
    with pytest.raises(SettingError) as caught:
        read_settings({**NO_FLAGS, **flags}, environ)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_strangers_variables_are_let_be() -> None:
    environ = dict.fromkeys(["WST_CACHE_DIR", "WST_RUNS_DIR", "WST_DATA_DIR", "WST_REQUIRE"], "x")
    kubernetes = {"WST_SERVICE_HOST": "10.0.0.1", "WST_SERVICE_PORT": "80", "WST_PORT_80_TCP": "tcp://10.0.0.1:80"}
    assert read_settings(NO_FLAGS, {**environ, **kubernetes, "WSTX": "1", "PATH": "/bin"}) == ServerSettings()


def test_every_setting_is_documented_in_the_help() -> None:
    help_text = variables_help()
    for name, default, text in setting_docs(ServerSettings):
        assert text, name
        assert f"WST_{name.upper()} (default {default})" in help_text
