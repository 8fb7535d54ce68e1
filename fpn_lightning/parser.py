"""Lightning's argument parser, with one-line errors. It accepts ``null`` as a value of any nested option."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from fpn_lightning.errors import InputError
from fpn_lightning.files import read_yaml

# jsonargparse's messages about an unknown option. A message contains the option's name, and may contain its group and
# its value.
_UNKNOWN = re.compile(
    r"unrecognized arguments: --(?P<argument>[^\s=]+)(?:[= ].*)?"
    r"|Group '(?P<group>[^']+)' does not accept option '(?P<option>[^']+)'"
    r"|(?:Subcommand '\w+' does not accept option|Option) '(?P<plain>[^']+)'(?: is not accepted)?"
)
_NO_ATTRIBUTE = re.compile(r"module '(?P<module>[\w.]+)' has no attribute '(?P<name>\w+)'")
_KEY = re.compile(r'Parser key "([^"]+)"(?: element \d+)?:\s*')
# These lines of a jsonargparse error are not shown, because they only list the tried types and repeat the value.
_NOISE = re.compile(
    r"Does not validate against|Subtypes: |Errors:|Given value|Problem with given class_path|Expected a path but|$"
)
_CALLABLE = re.compile(r"Type collections\.abc\.Callable.*? expects a function or a callable class: ")
_VALUE = re.compile(r"(?:Given|Got) value: (?:NestedArg\(key='[^']*', val=)?(.+?)(?:(?<=')\))?$")
_EXPECTED = re.compile(
    r"Expected a (?:<class '(?P<type>[\w.]+)'>|typing\.Literal\[(?P<choices>.*?)\]|dot import path string.*)"
    r"(?:\. Got value.*)?"
)
_NO_CLASS = re.compile(r" ?Not a valid subclass of (?P<base>\w+)")
NO_KEY = ": there is no such key"


class Parser(LightningArgumentParser):
    """Parser that raises :class:`InputError` instead of printing the usage. Nested options may be ``null``."""

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, *rest: Any, **options: Any
    ) -> Any:
        """Parse the arguments. ``--key=None`` means ``null``: jsonargparse passes it to nested parsers in this form."""
        words = sys.argv[1:] if args is None else args
        words = [re.sub(r"^(--[\w.]+)=None$", r"\1=null", word) for word in words]
        return super().parse_args(words, *rest, **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise an error. If a key is unknown, suggest the most similar key. The outermost parser raises InputError."""
        parser = getattr(ex, "subcommand_parser", None) or self
        message = _with_nearest_key(message, [action.dest for action in parser._actions])
        if not self.exit_on_error:
            super().error(message, ex)
        cause: BaseException | None = ex
        while cause is not None:
            if isinstance(cause, InputError):
                raise cause
            cause = cause.__cause__
        raise InputError(one_line(message)) from ex


def with_file(message: str, words: Sequence[str]) -> str:
    """Prefix an error message about a key with the name of the last configuration file that sets the key.

    Args:
        message: for example ``trainer.max_steps: five does not fit``.
        words: arguments of the program, with ``--config=FILE`` for each configuration file.

    Returns:
        The message with the prefix. The message is unchanged if ``words`` set the key as an option (``--KEY``), or if
        no file sets the key.
    """
    key = re.match(r"[a-z]\w*(?:\.\w+)+", message)
    if key is None or any(word.partition("=")[0] == f"--{key[0]}" for word in words):
        return message
    files = [Path(word.removeprefix("--config=")) for word in words if word.startswith("--config=")]
    holding = [file for file in files if file.is_file() and _holds(read_yaml(file), key[0].split("."))]
    return f"{holding[-1]}: {message}" if holding else message


def _holds(content: object, keys: Sequence[str]) -> bool:
    """Return whether nested mappings contain a path of keys. The path may leave out ``init_args``."""
    if not keys:
        return True
    if not isinstance(content, dict):
        return False
    inside = content.get("init_args")
    return (keys[0] in content and _holds(content[keys[0]], keys[1:])) or (
        isinstance(inside, dict) and _holds(inside, keys)
    )


def _with_nearest_key(message: str, keys: Sequence[str]) -> str:
    """Replace jsonargparse's message about an unknown key by a message that suggests the most similar of ``keys``."""
    if (match := _UNKNOWN.fullmatch(message)) is None:
        return message
    key = match["argument"] or match["plain"] or f"{match['group']}.{match['option']}"
    nearest = difflib.get_close_matches(key, keys, n=1)
    return f"{key}{NO_KEY}" + (f"; did you mean {nearest[0]}?" if nearest else ". --help lists the keys.")


def one_line(message: str) -> str:
    """Shorten a jsonargparse error to one line with the full key and the reason.

    If the configuration of a class contains that of another class, jsonargparse's error is a tree: for example, first
    the key ``model``, indented below it the key ``detector.backbone``, and below that the reason.
    """
    key = ".".join(dict.fromkeys(_KEY.findall(message)))  # keep each key once: jsonargparse repeats a group's key
    shown = _KEY.sub("", message).partition("Subclass types expect one of")[0]
    lines = [line.strip().removeprefix("- ") for line in shown.splitlines()]
    reasons = list(dict.fromkeys(_CALLABLE.sub("", line) for line in lines if not _NOISE.match(line)))
    expected = [match for match in map(_EXPECTED.fullmatch, reasons) if match]
    if causes := [reason for reason in reasons if not _EXPECTED.fullmatch(reason)]:
        reason = _with_nearest_name(re.sub(r"[.?]? Got value: .*", "", " ".join(causes)))
        if (no_class := _NO_CLASS.search(reason)) is not None:  # leave out "not a subclass" if there is another reason
            given, base = _given(message.splitlines()), no_class["base"]
            reason = _NO_CLASS.sub("", reason) or f"{given} is not a {base}. Give the import path of a class."
    else:
        reason = f"{_given(lines)} does not fit. Give {_alternatives(expected)}."
    if not key:
        return reason
    if NO_KEY in reason:  # keys in ``reason`` are relative to ``key``, so put ``key`` in front of them
        return f"{key}.{reason.replace('did you mean ', f'did you mean {key}.')}"
    return f"{key}: {reason}"


def _given(lines: Sequence[str]) -> str:
    """Return the rejected value; of nested values, return the innermost, which comes first in the message."""
    return next((match[1] for match in map(_VALUE.search, lines) if match), "the value")


def _alternatives(expected: Sequence[re.Match[str]]) -> str:
    """Return the accepted types and values as text: ``int, 'a', 'b' or null``."""
    names = [match["type"] or match["choices"] or "the path of a class" for match in expected]
    names = list(dict.fromkeys(name for given in names for name in given.replace("NoneType", "null").split(", ")))
    return " or ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def _with_nearest_name(reason: str) -> str:
    """If the error is that a module lacks a name, add the module's most similar name to the message."""
    if (match := _NO_ATTRIBUTE.search(reason)) is None:
        return reason
    module = sys.modules.get(match["module"])
    nearest = difflib.get_close_matches(match["name"], {*dir(module), *getattr(module, "__all__", ())}, n=1)
    return f"{match[0]}" + (f"; did you mean {match['module']}.{nearest[0]}?" if nearest else ".")
