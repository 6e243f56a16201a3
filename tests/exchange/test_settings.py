"""Settings from YAML and flags, and the one-line errors."""

import argparse

import pytest
from pydantic import Field

from exchange.settings import SettingError, Settings, find_config, load, parse_flags, parse_known, read_yaml, setting_docs, setting_names


class Inner(Settings):
    rate: float = 0.5
    """How fast, in steps a second."""
    names: tuple[str, ...] = ()
    """Names."""


class Outer(Settings):
    inner: Inner = Inner()
    """A section."""
    maybe: Inner | None = None
    """A section that may be missing."""
    count: int = 3
    """How many."""
    free: dict[str, float] = Field(default_factory=dict)
    """Anything."""


def test_flags_are_yaml_over_the_file():
    data = {"count": 1, "inner": {"rate": 0.1}}
    tree = load(Outer, data, parse_flags(["--inner.rate=1e-3", "--free.a=2", "--inner.names=[a, b]", "--maybe.rate=4"]))
    assert (tree.count, tree.inner.rate, tree.free, tree.inner.names) == (1, 1e-3, {"a": 2.0}, ("a", "b"))
    assert tree.maybe == Inner(rate=4)


def test_a_bare_flag_is_true_and_dashes_are_underscores():
    assert parse_flags(["--a-b", "--c=no", "--d=", "--e=1"]) == [("a_b", True), ("c", False), ("d", None), ("e", 1)]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--inner.rat=1"], "inner.rat=1: no such setting; did you mean inner.rate?"),
        (["--rate=1"], "rate=1: no such setting; did you mean inner.rate?"),
        (["--zzzz=1"], "zzzz=1: no such setting"),
        (["--count=x"], "count='x': input should be a valid integer, unable to parse string as an integer"),
        (["--count.x=1"], "count.x=1: no such setting"),
    ],
)
def test_a_bad_setting_is_one_line(flags, message):
    with pytest.raises(SettingError) as caught:
        load(Outer, {}, parse_flags(flags))
    assert str(caught.value).startswith(message) or "valid integer" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_numbers_with_an_exponent_are_numbers(tmp_path):
    assert parse_flags(["--lr=1e-6", "--x=-2.5E+3", "--v=1.2.3", "--w=e5"]) == [("lr", 1e-6), ("x", -2500.0), ("v", "1.2.3"), ("w", "e5")]
    (tmp_path / "c.yaml").write_text("a: 3e-4\n")
    assert read_yaml(tmp_path / "c.yaml") == {"a": 3e-4}


def test_what_looks_like_a_secret_is_not_repeated():
    with pytest.raises(SettingError) as caught:
        load(Outer, {}, parse_flags(["--inner.api_key=sk-123"]))
    assert "sk-123" not in str(caught.value) and "inner.api_key=(not shown): no such setting" in str(caught.value)


def test_a_setting_below_a_value_is_refused():
    with pytest.raises(SettingError, match="count is set to 3, which has no settings below it"):
        load(Outer, {"count": 3}, parse_flags(["--count.x=1"]))


def test_arguments_that_are_no_settings_are_refused():
    for flag in ("count=3", "--", "-x"):
        with pytest.raises(SettingError, match="settings are written --name=value"):
            parse_flags([flag])


def test_files_are_found_by_path_and_by_name(tmp_path):
    (tmp_path / "mine.yaml").write_text("count: 2\n")
    assert read_yaml(find_config(str(tmp_path / "mine.yaml"))) == {"count": 2}
    assert find_config("gsm8k_openai").name == find_config("configs/gsm8k_openai.yaml").name == "gsm8k_openai.yaml"
    with pytest.raises(SettingError, match=r"shipped ones: .*gsm8k_openai"):
        find_config("gsm9k")


def test_names_and_docs_cover_every_section():
    assert setting_names(Outer) == ["inner", "inner.rate", "inner.names", "maybe", "maybe.rate", "maybe.names", "count", "free"]
    docs = {name: (default, text) for name, default, text in setting_docs(Outer)}
    assert docs["inner.rate"] == ("0.5", "How fast, in steps a second.") and docs["count"] == ("3", "How many.")


def test_a_value_with_spaces_is_a_setting_and_no_file():
    parser = argparse.ArgumentParser()
    parser.add_argument("config", nargs="?")
    parser.add_argument("--resume", nargs="?")
    args, rest = parse_known(parser, ["c.yaml", "--a.b={c: 1, d: [2, 3]}", "--e=f", "--resume=/a b/run", "--a.b=2"])
    assert (args.config, args.resume) == ("c.yaml", "/a b/run")
    assert parse_flags(rest) == [("a.b", {"c": 1, "d": [2, 3]}), ("e", "f"), ("a.b", 2)]
