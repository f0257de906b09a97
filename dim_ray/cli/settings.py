"""Make a `Config` from values in a YAML file and flags.

    make_config([*read_settings(Path("tune.yaml")), Setting(field="pool.size", value="8", source="--pool.size")])

Every value keeps its source, so that an error names the file and line, or the flag.
"""

from __future__ import annotations

import difflib
import functools
import re
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from dim_ray.cli.flags import shipped_studies
from dim_ray.config import PRESETS, Config, to_dict
from dim_ray.errors import ConfigError, UsageError, listed, nearest

if TYPE_CHECKING:
    import jsonargparse
    import yaml

__all__ = [
    "Setting",
    "field_parser",
    "known_fields",
    "make_config",
    "read_settings",
    "read_study",
    "section_types",
    "to_yaml",
    "value_of",
]

_FIELD = re.compile(r"[a-z]+\.[a-z0-9_]+")
_PRESET = "evaluation.preset"
_SPACE = "study.space"
_TYPE_WORDS = {
    bool: ("true or false", "true or false"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("text (in quotes if it looks like something else)", "names"),
}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A value of a field, as written by the user."""

    field: str
    """Section and field, for example pool.size."""
    value: Any
    """Text of a flag (a list for a field of several values), or a YAML value."""
    source: str
    """Start of an error message: where the value was written."""


@functools.cache
def section_types() -> dict[str, type]:
    """Return the class of each section in order."""
    return get_type_hints(Config)


@functools.cache
def known_fields() -> dict[str, Any]:
    """Return the type of each field, such as pool.size, in order."""
    return {
        f"{section}.{field.name}": get_type_hints(cls)[field.name]
        for section, cls in section_types().items()
        for field in fields(cls)
    }


def value_of(config: Config, field: str) -> Any:
    """Return the value of a field such as pool.size."""
    section, _, name = field.partition(".")
    return getattr(getattr(config, section), name)


def read_settings(path: Path) -> list[Setting]:
    """Return the settings of a YAML file, after those of the shipped study that its `base` names; see `read_study`."""
    return read_study(path)[0]


def read_study(path: Path) -> tuple[list[Setting], dict[str, Any]]:
    """Return the settings of a YAML file, which has fields below their sections, and its `suits`.

    Raises:
        UsageError: The file is missing or unreadable.
        ConfigError: It isn't YAML, a section or field is unknown or repeated, or `base` can't be used.
    """
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"There is no configuration file {path}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The configuration file {path} can't be read: {error}.") from error
    try:
        loader = yaml.SafeLoader(text)
        return _read_nodes(loader, path)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else f"{path}"
        raise ConfigError(f"{where}: not valid YAML: {error.problem or error.context}.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}".replace("\n", " ")) from error


def make_config(settings: Iterable[Setting]) -> Config:
    """Return the configuration: the defaults, overridden by the settings in order, or refuse a value by its source.

    The recipe of evaluation.preset comes before the other settings of the same file or command line.
    """
    values: dict[str, dict[str, Any]] = {section: {} for section in section_types()}
    last: dict[str, Setting] = {}
    for setting in _with_recipe(list(settings)):
        section, _, name = setting.field.partition(".")
        values[section][name] = _convert(setting)
        last[setting.field] = setting
    try:
        return Config(**{section: cls(**values[section]) for section, cls in section_types().items()})
    except ConfigError as error:
        raise ConfigError(_with_place(str(error), last)) from error


def to_yaml(config: Config) -> str:
    """Return the configuration as YAML for `read_settings`, with one line per field."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Writes lists as [1, 10, 50]."""

    Dumper.add_representer(
        list, lambda dumper, items: dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=True)
    )
    return yaml.dump(to_dict(config), Dumper=Dumper, sort_keys=False, allow_unicode=True)


@functools.cache
def field_parser(*, docstrings: bool = False) -> jsonargparse.ArgumentParser:
    """Return a parser of all fields with their types and defaults; parsing their docstrings makes it slower."""
    import jsonargparse

    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=docstrings)
    parser = jsonargparse.ArgumentParser(
        exit_on_error=False, add_help=False, allow_abbrev=False, print_config=None, usage=""
    )
    for section, cls in section_types().items():
        parser.add_class_arguments(cls, section)
    return parser


def _with_recipe(settings: Sequence[Setting]) -> list[Setting]:
    """Insert the last preset's recipe at the start of the file or command line that names it."""
    chosen = next((setting for setting in reversed(settings) if setting.field == _PRESET), None)
    if chosen is None:
        return list(settings)
    fields = next((recipe for name, recipe in PRESETS.items() if name == chosen.value), {})
    recipe = [Setting(field=f"evaluation.{name}", value=value, source=chosen.source) for name, value in fields.items()]
    is_flag = [setting.source.startswith("--") for setting in settings]
    start = is_flag.index(True) if chosen.source.startswith("--") else 0
    return [*settings[:start], *recipe, *settings[start:]]


def _convert(setting: Setting) -> Any:
    import jsonargparse

    section, _, name = setting.field.partition(".")
    hint = known_fields()[setting.field]
    try:
        value = field_parser().parse_object({section: {name: setting.value}}, defaults=False)[setting.field]
    except jsonargparse.ArgumentError:
        value = None
        is_wrong = True
    else:
        is_wrong = value is None and type(None) not in get_args(hint)  # the parser takes null for every field
    if is_wrong:
        is_list_of_flag = setting.source.startswith("--") and isinstance(setting.value, list)
        shown = " ".join(setting.value) if is_list_of_flag else setting.value
        raise ConfigError(
            f"{setting.source} is {'null' if shown is None else listed([repr(shown)])}; expected {_describe(hint)}."
        )
    return _typed_space(setting, value) if setting.field == _SPACE else value


def _typed_space(setting: Setting, space: Mapping[str, Any]) -> dict[str, Any]:
    """Convert values of a space to their fields' types; `StudyConfig` refuses entries of another shape."""

    def typed(field: str, values: Any) -> Any:
        if field not in known_fields():
            return values
        if isinstance(values, list):
            return [
                _convert(Setting(field=field, value=value, source=f"{setting.source}: {field}")) for value in values
            ]
        if isinstance(values, dict):
            numbers = {key: typed(field, [values[key]])[0] for key in ("low", "high") if key in values}
            lists = {"values": typed(field, values["values"])} if "values" in values else {}
            when = values.get("when")
            others = {other: typed(other, own) for other, own in when.items()} if isinstance(when, dict) else when
            return values | numbers | lists | ({"when": others} if "when" in values else {})
        return values

    return {field: typed(field, values) for field, values in space.items()}


def _with_place(message: str, settings: Mapping[str, Setting]) -> str:
    """Return a message that starts with where its first field was written; flags come before files."""
    named = [settings[field] for field in _FIELD.findall(message) if field in settings]
    if not named:
        return message
    first = min(named, key=lambda setting: not setting.source.startswith("--"))
    if first.source == f"--{first.field}" and message.startswith(first.field):
        return f"--{message}"
    return f"{first.source.removesuffix(f': {first.field}')}: {message}"


def _describe(hint: Any, *, several: bool = False) -> str:
    """Describe in words what a type allows."""
    options = get_args(hint)
    if get_origin(hint) is Literal:
        return ("names out of " if several else "one of ") + ", ".join(options)
    if get_origin(hint) in (Union, types.UnionType):
        return f"{_describe(next(option for option in options if option is not type(None)))}, or null"
    if get_origin(hint) is dict:
        return "fields with their values, such as {pool.size: [1, 2, 4]}"
    if get_origin(hint) is tuple:
        return f"a list of {_describe(options[0], several=True)}"
    one, many = _TYPE_WORDS[hint]
    return many if several else one


def _read_nodes(loader: yaml.SafeLoader, path: Path) -> tuple[list[Setting], dict[str, Any]]:
    # Nodes have line numbers, and keep repeated keys.
    root = loader.get_single_node()
    if root is None:
        return [], {}
    settings: dict[str, Setting] = {}
    keys: set[str] = set()
    base: list[Setting] = []
    suits: dict[str, Any] = {}
    for key, line, node in _items(loader, root, f"{path}: the file"):
        where = f"{path}:{line}"
        entries: Sequence[tuple[str, int, yaml.Node]] = []
        if key in keys:
            raise ConfigError(f"{where}: {key} is repeated; write what it has at one of them.")
        keys.add(key)
        if key in known_fields():  # "pool.size: 8" at the top level
            entries = [(key, line, node)]
        elif key == "base":
            base = _read_base(loader.construct_object(node, deep=True), where)
        elif key == "suits":
            suits = loader.construct_object(node, deep=True)
        elif key not in section_types():
            kind = "field" if "." in key else "section"
            raise ConfigError(f"{where}: {key} is not a known {kind}; {_nearest_field(key)}")
        else:
            entries = [(f"{key}.{name}", at, value) for name, at, value in _items(loader, node, f"{where}: {key}")]
        for field, at, value in entries:
            where = f"{path}:{at}: {field}"
            if field not in known_fields():
                raise ConfigError(f"{where} is not a known field; {_nearest_field(field)}")
            if field in settings:
                raise ConfigError(f"{where} is repeated; keep one of them.")
            settings[field] = Setting(field=field, value=loader.construct_object(value, deep=True), source=where)
    return [*base, *settings.values()], suits


def _read_base(name: Any, where: str) -> list[Setting]:
    studies = shipped_studies()
    if not isinstance(name, str) or name not in studies:
        raise ConfigError(f"{where}: base is {name!r}, which is no shipped study; {nearest(str(name), studies)}")
    return read_settings(studies[name])


def _items(loader: yaml.SafeLoader, node: yaml.Node, what: str) -> list[tuple[str, int, yaml.Node]]:
    """Return key, line and node of each entry of a mapping or an empty section."""
    import yaml

    if isinstance(node, yaml.MappingNode):
        return [
            (str(loader.construct_object(key, deep=True)), key.start_mark.line + 1, value) for key, value in node.value
        ]
    value = loader.construct_object(node, deep=True)
    if value is None:
        return []
    raise ConfigError(
        f"{what} is {listed([repr(value)])}; expected names with values, such as 'pool:' and below it '  size: 8'."
    )


def _nearest_field(wrong: str) -> str:
    """Return the end of a message: the field or section that was probably meant, and the known ones."""
    section, _, name = wrong.rpartition(".")
    siblings = [field for field in known_fields() if field.startswith(f"{section}.")]
    elsewhere = [field for field in known_fields() if field.endswith(f".{name}")]
    close = (
        difflib.get_close_matches(wrong, siblings, n=1, cutoff=0.8)
        or elsewhere
        or difflib.get_close_matches(wrong, [*section_types(), *known_fields()], n=1)
    )
    guess = f"did you mean {' or '.join(close[:3])}? " if close else ""
    if siblings:
        return f"{guess}Fields of {section}: {', '.join(field.partition('.')[2] for field in siblings)}."
    return f"{guess}Sections: {', '.join(section_types())}."
