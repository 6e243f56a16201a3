"""The log of an A/B test: what is read, in which order, and what is refused with its line."""

import json
import math

import numpy as np
import pytest

from evaluation.ab_log import read_log, read_rows
from exchange.settings import SettingError

GOOD = {"unit": "u", "arm": "raw", "metric": "resolved", "value": 1, "time": 0}


def test_units_and_their_sums():
    log = read_rows(
        [
            {**GOOD, "unit": "late", "time": 30, "value": 0.5, "covariate": 3.0},
            {**GOOD, "unit": "late", "time": 20, "value": None, "covariate": 2.0},
            {**GOOD, "unit": 17, "arm": "teacher", "time": "1970-01-01T00:00:10Z", "value": True},
            {**GOOD, "unit": "late", "time": 40, "value": 2, "covariate": None},
            {**GOOD, "unit": "17", "arm": "raw", "time": 11, "value": 0},
            {**GOOD, "unit": "silent", "time": 5, "value": None},
            {**GOOD, "unit": "silent", "time": 6, "value": 9, "metric": "other"},
        ]
    )
    assert log.arms == ("raw", "teacher")
    assert log.arm_of.tolist() == [0, 1, 0]  # silent, 17, late: in order of time
    assert log.moved_units == 1
    assert list(log.metrics) == ["other", "resolved"]
    table = log.metrics["resolved"]
    assert table.unit.tolist() == [1, 2]
    assert table.total.tolist() == [1.0, 2.5]
    assert table.count.tolist() == [2.0, 2.0]
    assert table.hits.tolist() == [1, 0]
    assert math.isnan(table.covariate[0]) and table.covariate[1] == 2.0
    assert not table.binary and not log.metrics["other"].binary


def test_times_with_and_without_a_zone_are_utc():
    stamps = ["2026-01-01T12:00:00", "2026-01-01T12:30:00+01:00", "2026-01-01 11:59:00Z"]
    log = read_rows([{**GOOD, "unit": f"u{i}", "arm": f"arm{i}", "time": stamp} for i, stamp in enumerate(stamps)])
    assert log.arm_of.tolist() == [1, 2, 0]


def test_zero_and_one_are_binary_whatever_their_type():
    assert read_rows([{**GOOD, "value": value} for value in (0, 1, 0.0, 1.0, True, False, None)]).metrics["resolved"].binary
    assert not read_rows([{**GOOD, "value": value} for value in (0, 1, 0.5)]).metrics["resolved"].binary


def test_a_byte_order_mark_blank_lines_crlf_and_line_separators_in_names(tmp_path):
    path = tmp_path / "log.jsonl"
    lines = [json.dumps(GOOD), "", json.dumps({**GOOD, "unit": "a\u2028b"}, ensure_ascii=False), "   "]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    assert len(read_log(path).arm_of) == 2


def written(tmp_path, line):
    path = tmp_path / "log.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b"\n" + line + b"\n")
    return path


BAD = [
    (b'{"unit": "u", "arm"', "not JSON (Expecting ':' delimiter at character 20)"),
    (b'{"unit": "u"} {"unit": "v"}', "not JSON (Extra data at character 15)"),
    (b'["u", "raw"]', "expected an object, found ['u', 'raw']"),
    (b"17", "expected an object, found 17"),
    (b"[" * 100_000, "nested too deeply"),
    (b'{"unit": "\xff"}', "not UTF-8 text (invalid start byte at byte 11 of the line)"),
]
WRONG = [
    ({"value": math.nan}, "value is nan; it must be a finite number of at most 1e+15 in size"),
    ({"value": math.inf}, "value is inf; it must be a finite number of at most 1e+15 in size"),
    ({"value": -1e308}, "value is -1e+308; it must be a finite number of at most 1e+15 in size"),
    ({"value": 10**400}, "value is 1000"),
    ({"value": "1"}, "value is '1'; it must be a number or null"),
    ({"value": [1]}, "value is [1]; it must be a number or null"),
    ({"value": ...}, "value is missing; write null for an exposure without an outcome"),
    ({"covariate": math.nan}, "covariate is nan"),
    ({"covariate": "high"}, "covariate is 'high'; it must be a number or null"),
    ({"time": ...}, "time is missing"),
    ({"time": None}, "time is None; it must be a number"),
    ({"time": "yesterday"}, "time is 'yesterday'; it must be seconds since 1970 or ISO 8601"),
    ({"time": math.nan}, "time is nan"),
    ({"unit": ...}, "unit is missing"),
    ({"unit": ""}, "unit is ''; it must be a text or a whole number"),
    ({"unit": True}, "unit is True"),
    ({"unit": 1.5}, "unit is 1.5"),
    ({"arm": ...}, "arm is missing"),
    ({"arm": 3}, "arm is 3; it must be a text"),
    ({"arm": "a\nb"}, "arm is 'a\\nb'; it holds characters that cannot be printed"),
    ({"metric": "\ud800"}, "metric is '\\ud800'; it holds characters that cannot be printed"),
    ({"metric": ""}, "metric is ''"),
    ({"forced": "yes"}, "forced is 'yes'; it must be true or false"),
]


@pytest.mark.parametrize(("line", "message"), BAD)
def test_a_line_that_is_no_record_is_named(tmp_path, line, message):
    path = written(tmp_path, line)
    with pytest.raises(SettingError) as caught:
        read_log(path)
    assert str(caught.value) == f"{path}:2: {message}"


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_a_field_that_cannot_be_is_named_with_its_line(tmp_path, change, message):
    bad = {key: value for key, value in {**GOOD, **change}.items() if value is not ...}
    path = written(tmp_path, json.dumps(bad).encode())
    with pytest.raises(SettingError) as caught:
        read_log(path)
    assert str(caught.value).startswith(f"{path}:2: {message}")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
    with pytest.raises(ValueError, match=r"^row 2: "):
        read_rows([GOOD, bad])


def test_a_number_of_thousands_of_digits(tmp_path):
    path = written(tmp_path, json.dumps(GOOD).replace("1", "9" * 5_000, 1).encode())
    with pytest.raises(SettingError, match="2: a number of thousands of digits"):
        read_log(path)
    with pytest.raises(ValueError, match="row 1: value is a number of thousands of digits"):
        read_rows([{**GOOD, "value": 10**5_000}])


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_an_empty_file(tmp_path, content):
    path = tmp_path / "log.jsonl"
    path.write_bytes(content)
    with pytest.raises(SettingError, match="the log holds no exposures; there is nothing to analyse"):
        read_log(path)


def test_only_forced_lines_are_no_test():
    with pytest.raises(ValueError, match="no exposures but 2 of units that were put into their arm by hand"):
        read_rows([{**GOOD, "forced": True}] * 2)


def test_other_encodings_and_missing_files(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps(GOOD), encoding="utf-16")
    with pytest.raises(SettingError, match=r":1: not UTF-8 text"):
        read_log(path)
    with pytest.raises(SettingError, match="cannot be read"):
        read_log(tmp_path / "none.jsonl")
    with pytest.raises(SettingError, match="cannot be read"):
        read_log(tmp_path)


def test_a_hundred_thousand_lines_take_a_second_or_two():
    rows = ({**GOOD, "unit": f"u{i // 2}", "arm": ("raw", "teacher")[i // 2 % 2], "time": i} for i in range(100_000))
    log = read_rows(rows)
    assert np.array_equal(log.arm_of, np.arange(50_000) % 2)
    assert log.metrics["resolved"].count.sum() == 100_000
