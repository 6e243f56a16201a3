"""Settings: one strict pydantic tree a command, read from a sparse YAML file and `--a.b=value` flags.

Every config class of the project derives from `Settings`: frozen, unknown keys refused, each field documented by the string under it.
A bad setting raises `SettingError`, whose text is one line: the setting, the value, and what to do.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

CONFIGS = Path(__file__).parent.parent / "configs"


class Settings(BaseModel):
    """Base of every config class."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=())


class SettingError(ValueError):
    """A setting that the user can mend; commands print it as one line and exit 2."""


class _Yaml(yaml.SafeLoader):
    """YAML 1.1 takes `1e-6` for text because it has no dot; people mean the number."""


_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def from_environment(name: str, value: str) -> str:
    """A setting's value, or what the environment variable holds where it is written `env:NAME`, as secrets are. Raises SettingError."""
    variable = value.removeprefix("env:")
    if variable == value:
        return value
    if not os.environ.get(variable):
        raise SettingError(f"{name}={value!r}: the environment variable {variable} is not set")
    return os.environ[variable]


def only(flags: Sequence[tuple[str, Any]], allowed: Sequence[str], *, reason: str) -> Sequence[tuple[str, Any]]:
    """The flags. Raises SettingError, with the reason, for one that is neither an allowed setting nor below one."""
    for name, _ in flags:
        if not any(name == setting or name.startswith(f"{setting}.") for setting in allowed):
            raise SettingError(f"{name}: {reason}")
    return flags


Tree = TypeVar("Tree", bound=Settings)


def find_config(name: str) -> Path:
    """The YAML file `name`: a path as it stands, else a file of the shipped `configs/` by name (suffix optional)."""
    for candidate in (Path(name), CONFIGS / name, CONFIGS / f"{name}.yaml", CONFIGS / Path(name).name):
        if candidate.is_file():
            return candidate
    shipped = ", ".join(sorted(p.stem for p in CONFIGS.glob("*.yaml")))
    raise SettingError(f"{name}: no such config file; shipped ones: {shipped}")


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; an empty file is an empty mapping."""
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _Yaml)
    except OSError as error:
        raise SettingError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise SettingError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except yaml.YAMLError as error:
        raise SettingError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise SettingError(f"{path}: expected settings as 'key: value', found {type(data).__name__}")
    return data


def parse_known(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """(a command's own arguments, the settings). argparse would take `--a={b: 1}` for a file's name, because of the space."""
    given = list(sys.argv[1:] if argv is None else argv)
    held = {f"--held.{i}": text for i, text in enumerate(given) if " " in text and re.match(r"--[\w-]+\.[\w.-]+=", text)}
    places = {text: place for place, text in held.items()}
    args, rest = parser.parse_known_args([places.get(text, text) for text in given])
    return args, [held.get(text, text) for text in rest]


def parse_flags(flags: Sequence[str]) -> list[tuple[str, Any]]:
    """`--a.b=value` flags as (dotted name, value); values are YAML, a bare flag is true, `--a.b value` is not accepted."""
    pairs: list[tuple[str, Any]] = []
    for flag in flags:
        if not flag.startswith("--") or flag == "--":
            raise SettingError(f"{flag!r}: unexpected argument; settings are written --name=value")
        name, equals, text = flag[2:].partition("=")
        try:
            value = yaml.load(text, _Yaml) if equals else True
        except yaml.YAMLError:
            value = text
        pairs.append((name.replace("-", "_"), text if isinstance(value, str) else value))
    return pairs


def merge(tree: dict[str, Any], name: str, value: Any) -> None:
    """Set a dotted name in a nested mapping, in place."""
    *parents, leaf = name.split(".")
    for i, parent in enumerate(parents):
        if tree.get(parent) in (None, True):  # also a section that a YAML file leaves empty, or that a bare flag asked for
            tree[parent] = {}
        below = tree[parent]
        if not isinstance(below, dict):
            raise SettingError(f"{name}: {'.'.join(parents[: i + 1])} is set to {below!r}, which has no settings below it")
        tree = below
    if not (value is True and isinstance(tree.get(leaf), dict)):  # a bare flag takes nothing back that was set below it
        tree[leaf] = value


def load(model: type[Tree], data: dict[str, Any], flags: Iterable[tuple[str, Any]] = ()) -> Tree:
    """Validate `data` with `flags` laid over it. Raises SettingError with one line for the first thing that is wrong."""
    for name, value in flags:
        merge(data, name, value)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise SettingError(_explain(model, error)) from None


def _explain(model: type[BaseModel], error: ValidationError) -> str:
    """One line for the first problem of a validation."""
    first = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = setting_names(model)
        leaf_matches = [k for k in known if k.rsplit(".", 1)[-1] == name.rsplit(".", 1)[-1]]
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.6) or leaf_matches
        return f"{name}={_shown(name, first['input'])}: no such setting" + (f"; did you mean {near[0]}?" if near else "")
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        return f"{name}: this setting has no default and must be given"
    if not name:
        return message
    return f"{name}={_shown(name, first['input'])}: {message[0].lower()}{message[1:]}"


def _shown(name: str, value: Any) -> str:
    """A bad value as an error may show it: what is named like a secret is not repeated."""
    if re.search(r"key|token$|secret|password|header|args", name):
        return "(not shown)"
    return re.sub(r"//[^/@\s]*@", "//(not shown)@", repr(value))


def _below(annotation: Any) -> Iterator[type[BaseModel]]:
    """The config classes inside an annotation such as `StudentConfig | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        for part in typing.get_args(annotation):
            yield from _below(part)


def switched(value: object) -> object:
    """For a field_validator(mode="before") of an optional section: `--section` alone gives its defaults, `--section=false` none."""
    return {} if value is True else None if value is False else value


def setting_names(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Every dotted setting of a tree, sections included."""
    names: list[str] = []
    for name, field in model.model_fields.items():
        names.append(prefix + name)
        for section in _below(field.annotation):
            names.extend(setting_names(section, f"{prefix}{name}."))
    return names


def setting_docs(
    model: type[BaseModel], prefix: str = "", described: dict[type[BaseModel], str] | None = None, default: object = None
) -> Iterator[tuple[str, str, str]]:
    """(dotted name, default, description) of every setting, for `--help` and the reference page. A section of a class that was described
    before is one line that says where. `default`: the section as its parent has it, whose values are the defaults."""
    described = {} if described is None else described
    for name, field in model.model_fields.items():
        text = " ".join((field.description or "").split())
        given = getattr(default, name) if isinstance(default, model) else field.get_default(call_default_factory=True)
        sections = list(_below(field.annotation))
        for section in sections:
            if section in described:
                yield prefix + name, "", f"{text} Settings as below `{described[section]}`."
            else:
                described[section] = prefix + name
                yield from setting_docs(section, f"{prefix}{name}.", described, given)
        if not sections:
            yield prefix + name, "required" if field.is_required() else repr(given), text
