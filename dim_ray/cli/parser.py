"""Argument parsers with short flags, a flag for every field of the configuration, and their help.

    parser = FlagParser("python -m dim_ray.tune", "Search ...", TUNE_FLAGS, extra=None, shipped=[], defaults=None)
    parser.parse_args(["--ipc", "1", "10", "--pool.size=8"]).settings

Values stay text; `dim_ray.cli.settings` converts them.
"""

from __future__ import annotations

import argparse
import difflib
import functools
import shutil
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

from dim_ray.cli.clusters import add_cluster_flags
from dim_ray.cli.completion import complete, is_asked
from dim_ray.cli.flags import DEFAULT_STUDY, Flag
from dim_ray.cli.settings import Setting, field_parser, known_fields, make_config, section_types, value_of
from dim_ray.config import Config, StorageConfig
from dim_ray.errors import UsageError, listed
from dim_ray.start.script import as_typed

__all__ = ["FlagParser", "Parser"]

_HELP_COLUMN = 28


class Parser(argparse.ArgumentParser):
    """An argument parser that raises a `UsageError` instead of printing the usage and exiting."""

    def __init__(self, program: str, description: str, **options: Any) -> None:
        shown: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter, **options}
        super().__init__(prog=as_typed(program), description=as_typed(description.strip()), allow_abbrev=False, **shown)

    def add_storage(self) -> None:
        """Add --storage, for commands without a configuration."""
        self.add_argument(
            "--storage",
            default=StorageConfig().root,
            metavar="ROOT",
            help="folder, s3:// or gs:// URI (default: %(default)s)",
        )

    def add_hub(self) -> None:
        """Add --push-to-hub and what it takes, for commands that write a folder for others."""
        self.add_argument(
            "--push-to-hub", metavar="ORG/NAME", help="upload the folder to the Hugging Face Hub; @BRANCH may follow"
        )
        self.add_argument("--private", action="store_true", help="make the Hub's repository a private one")
        self.add_argument("--license", metavar="ID", help="the Hub's identifier of a license, for example cc-by-4.0")

    def refuse_unknown_flags(self, argv: Sequence[str]) -> None:
        """Raise a `UsageError` for the first unknown flag, before argparse misinterprets its value.

        If a shell asks for completions instead, answer it and end the process.
        """
        if is_asked():
            complete(self)
        known = [name for action in self._actions for name in action.option_strings]
        for token in argv:
            name = token.partition("=")[0]
            if name.startswith("-") and name not in known and not _is_number(token):
                close = difflib.get_close_matches(name, known, n=1)
                guess = f"; did you mean {close[0]}?" if close else "."
                raise UsageError(f"unknown flag {name}{guess} See --help.")

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized"):  # by a pattern, the shell may have given any number
            message = listed(message.split(" "), 10, between=" ")
        raise UsageError(f"{message.removeprefix('argument ').replace('unrecognized', 'unexpected')}. See --help.")


class FlagParser(Parser):
    """A parser of short flags, shown in --help, and of one flag for every field."""

    def __init__(
        self,
        program: str,
        description: str,
        flags: Sequence[Flag],
        extra: Callable[[argparse.ArgumentParser], None] | None,
        shipped: Sequence[Setting],
        defaults: Path | None,
    ) -> None:
        formatter = functools.partial(argparse.RawDescriptionHelpFormatter, max_help_position=_HELP_COLUMN)
        super().__init__(program, description, formatter_class=formatter, epilog=_sections_help(), add_help=False)
        self.set_defaults(settings=[], **{flag.all_values: () for flag in flags if flag.all_values is not None})
        written = {setting.field: setting.value for setting in shipped}
        for flag in flags:
            default = written.get(flag.field, value_of(Config(), flag.field))
            if defaults == DEFAULT_STUDY and flag.field.partition(".")[0] not in ("data", "storage", "study"):
                default = "the recipe's"
            text = (flag.help + _default_text(default)).replace("%", "%%")
            _add_field(self, flag.name, flag.field, help=text, all_values=flag.all_values)
        for field in known_fields():
            _add_field(self, f"--{field}", field, help=argparse.SUPPRESS)
        if extra is not None:
            extra(self)
        positionals = [str(action.metavar or action.dest) for action in self._actions if not action.option_strings]
        self.usage = " ".join([self.prog, *positionals, "[flags]"])
        add_cluster_flags(self)
        self.add_argument("--seed", type=_seed, metavar="N", help="every seed but that of the data split")
        self.add_argument(
            "--config",
            metavar="FILE",
            help="YAML file, or a name of --list-studies"
            + (
                ", instead of the recipe that suits; fields that it leaves out have the code's defaults"
                if defaults
                else ""
            ),
        )
        self.add_argument("--study-file", dest="config", help=argparse.SUPPRESS)
        self.add_argument("--list-studies", action="store_true", help="print what is shipped for --config")
        self.add_argument("--print-config", action="store_true", help="print the configuration, for --config")
        # parse() handles these two; here they only appear in the help.
        self.add_argument("-h", "--help", action="help", help="show this help and stop")
        self.add_argument("--help-all", action="help", help="show every field of the configuration and stop")

    def format_help_all(self, shipped: Sequence[Setting]) -> str:
        """Return the help with every field's docstring, type and default."""
        self.epilog = None
        everything = field_parser(docstrings=True)
        everything.formatter_class = _fields_formatter()
        config = make_config(shipped)
        everything.set_defaults({field: value_of(config, field) for field in known_fields()})
        for section, cls in section_types().items():
            (everything.groups or {})[section].title = f"--{section}.*  {_sentence(cls)}"
        return f"{self.format_help()}\n{everything.format_help().removeprefix('usage:').strip()}"


class _SetField(argparse.Action):
    """Append the value of a field to the namespace's settings, of which the last one counts."""

    def __init__(self, *, field: str, all_values: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.field = field
        self.all_values = all_values

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if self.all_values is None and isinstance(values, list):
            text = " ".join(values)
            values = text if text.startswith("[") else [part for part in text.replace(",", " ").split() if part]
        if self.all_values is not None:
            setattr(namespace, self.all_values, tuple(values))
            values = values[0]
        setting = Setting(field=self.field, value=values, source=option_string or f"--{self.field}")
        namespace.settings = [*namespace.settings, setting]


def _add_field(
    parser: argparse.ArgumentParser, name: str, field: str, help: str, all_values: str | None = None
) -> None:
    hint = known_fields()[field]
    is_several = all_values is not None or get_origin(hint) is tuple
    numbers = {int: "N", float: "X"}
    kind = next((t for t in (hint, *get_args(hint)) if t in numbers), None)
    metavar = numbers[kind] if kind else name.rpartition("-")[2].rpartition(".")[2].upper()
    action: Any = parser.add_argument(
        name,
        action=_SetField,
        field=field,
        all_values=all_values,
        nargs="+" if is_several else None,
        dest=argparse.SUPPRESS,
        metavar=metavar,
        help=help,
    )
    values = [value for own in (hint, *get_args(hint)) if get_origin(own) is Literal for value in get_args(own)]
    if values:
        action.completer = lambda **_: values  # as argcomplete looks for it


def _sections_help() -> str:
    width = max(map(len, section_types())) + len("--.*") + 4
    terminal_width = shutil.get_terminal_size().columns - 2
    lines = [
        textwrap.fill(
            f"  {f'--{section}.*':<{width - 2}}{_sentence(cls)}", terminal_width, subsequent_indent=" " * width
        )
        for section, cls in section_types().items()
    ]
    order = "Flags override the --config file, which overrides the defaults. --help-all shows every field."
    return "\n".join(
        [
            "every field of the configuration is a flag too, such as --pool.size 8:",
            *lines,
            "",
            textwrap.fill(order, terminal_width),
        ]
    )


def _sentence(cls: type) -> str:
    """Return the first sentence of a section's docstring, without its full stop."""
    return (cls.__doc__ or "").strip().partition("\n")[0].partition(". ")[0].rstrip(".")


def _fields_formatter() -> type[argparse.HelpFormatter]:
    import jsonargparse

    class FieldsFormatter(jsonargparse.DefaultHelpFormatter):
        """Omits the flags that load a whole section."""

        def add_argument(self, action: argparse.Action) -> None:
            if "." in action.dest:
                super().add_argument(action)

    return FieldsFormatter


def _default_text(value: Any) -> str:
    if value is None or value == ():
        return ""
    shown = " ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
    return f" (default: {shown})"


def _seed(text: str) -> int:
    if text.isdecimal():
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
