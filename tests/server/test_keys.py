"""The file of keys: what its command writes, what a running server takes from it, and when it looks again."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from exchange.settings import SettingError
from server.keys import Key, KeyRing, _session, change, main, new_secret, read_keys


def made(file: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["--keys", str(file), *arguments]) == 0
    return capsys.readouterr().out.strip()


def refused(file: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["--keys", str(file), *arguments]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    return err


def test_a_key_is_printed_once_and_kept_as_its_hash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "k" / "keys.json"
    text = made(file, capsys, "create", "--tenant", "shop", "--scopes", "instruct,outcomes", "--requests-per-minute", "60")
    assert text[17:] not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    found = KeyRing(file).find(text)
    assert found is not None
    assert (found[0], found[1].tenant, found[1].scopes, found[1].quota.requests_per_minute) == (
        text[4:16],
        "shop",
        ("instruct", "outcomes"),
        60,
    )
    listed = json.loads(made(file, capsys, "list"))
    assert (listed["id"], listed["tenant"]) == (found[0], "shop")
    assert "sha256" not in listed


def test_what_opens_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "keys.json"
    text = made(file, capsys, "create", "--tenant", "a")
    other = made(file, capsys, "create", "--tenant", "b")
    ring = KeyRing(file)
    swapped = text[:17] + other[17:]
    wrong = [
        "",
        "wst_",
        text[:-1],
        text + "x",
        text.upper(),
        swapped,
        "' OR 1=1 --",
        "wst_" + "0" * 12 + "_" + "x" * 43,
        f" {text}",
        text + "\n",
        "ä" * 60,
    ]
    assert [ring.find(one) for one in wrong] == [None] * len(wrong)
    assert ring.find(text) is not None


def test_revoked_expired_and_rotated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "keys.json"
    now = [0.0]
    text, expiring = (made(file, capsys, "create", "--tenant", "a", "--days", days) for days in ("1", "1"))
    ring = KeyRing(file, clock=lambda: now[0])
    fresh = made(file, capsys, "rotate", text[4:16], "--overlap-hours", "1")
    assert ring.find(fresh) is None  # not looked again yet
    now[0] = 0.6
    assert ring.find(fresh) is not None
    assert ring.find(text) is not None
    newest = made(file, capsys, "rotate", text[4:16], "--overlap-hours", "0")
    past = datetime.now(UTC) - timedelta(seconds=1)
    change(file, lambda keys: keys.update({expiring[4:16]: keys[expiring[4:16]].model_copy(update={"expires": past})}))
    now[0] = 1.2
    assert [ring.find(one) is not None for one in (text, fresh, newest, expiring)] == [False, False, True, False]
    made(file, capsys, "revoke", text[4:16])
    now[0] = 1.8
    assert ring.find(newest) is None


def test_a_file_that_breaks_leaves_the_keys_in_force(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys.json"
    now = [0.0]
    text = made(file, capsys, "create", "--tenant", "a")
    ring = KeyRing(file, clock=lambda: now[0])
    for content in ("{", '{"keys": {"x": {"tenant": "hunter2"}}}', None):
        if content is None:
            file.unlink()
        else:
            file.write_text(content)
        now[0] += 1
        assert ring.find(text) is not None
    assert "stay in force" in caplog.text
    assert "hunter2" not in caplog.text


def test_bad_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "keys.json"
    assert "did you mean instruct?" in refused(file, capsys, "create", "--tenant", "a", "--scopes", "instrct")
    assert "--concurrency: input should be greater" in refused(file, capsys, "create", "--tenant", "a", "--concurrency", "0")
    assert "--tenant: string should have at least 1" in refused(file, capsys, "create", "--tenant", "")
    assert "cannot be read" in refused(file, capsys, "list")
    assert "no key 'x'" in refused(file, capsys, "revoke", "x")
    assert "required" in refused(file, capsys)
    assert not file.exists() or '"keys":{}' in file.read_text().replace(" ", "").replace("\n", "")


def test_a_date_without_its_offset_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    key = {"tenant": "t", "secrets": [], "scopes": [], "created": "2026-01-01T00:00:00Z", "expires": "2030-01-01T00:00:00"}
    path.write_text(json.dumps({"keys": {"0123456789ab": key}}))
    with pytest.raises(SettingError, match=r"keys\.0123456789ab\.expires: a date and time needs its offset from UTC, as in 2030"):
        read_keys(path)


def test_a_session_ends_in_hours_and_no_later_than_what_opened_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, now = tmp_path / "keys.json", datetime.now(UTC)
    text, secret = new_secret("0" * 12)
    old, gone = new_secret("0" * 12)
    key = Key(tenant="t", secrets=(secret, gone.model_copy(update={"until": now + timedelta(hours=1)})), scopes=("admin",), created=now)
    change(file, lambda keys: keys.update({"0" * 12: key, "1" * 12: key.model_copy(update={"secrets": ()})}))
    ring = KeyRing(file)
    sessions = [ring.open_session(one) for one in (text, old)]
    assert ring.open_session(text + "x") is None and None not in sessions

    def stand(hours: float) -> list[bool]:
        class Then(datetime):
            @classmethod
            def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
                return now + timedelta(hours=hours)

        monkeypatch.setattr("server.keys.datetime", Then)
        return [ring.in_session(one or "") is not None for one in sessions]

    assert [stand(hours) for hours in (0.9, 1.1, 11.9, 12.1)] == [[True, True], [True, False], [True, False], [False, False]]
    stand(0)
    expiry = int(now.timestamp()) + 60
    assert ring.in_session(_session("0" * 12, key, expiry)) is not None
    assert ring.in_session(_session("1" * 12, key.model_copy(update={"secrets": ()}), expiry)) is None  # a MAC by nothing is anybody's
