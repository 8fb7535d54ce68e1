"""The argument parser: Lightning's, with ``null`` at any depth and errors in one line."""

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

# An option that does not exist, in jsonargparse's words: the group it was looked for in, its name, its value.
_UNKNOWN = re.compile(
    r"unrecognized arguments: --(?P<argument>[^\s=]+)(?:[= ].*)?"
    r"|Group '(?P<group>[^']+)' does not accept option '(?P<option>[^']+)'"
    r"|(?:Subcommand '\w+' does not accept option|Option) '(?P<plain>[^']+)'(?: is not accepted)?"
)
_NO_ATTRIBUTE = re.compile(r"module '(?P<module>[\w.]+)' has no attribute '(?P<name>\w+)'")
_KEY = re.compile(r'Parser key "([^"]+)"(?: element \d+)?:\s*')
# Lines that say how the parser works: types tried, and the value once more for each of them.
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
    """Raises :class:`InputError` instead of printing the usage, and reads ``null`` for arguments of classes."""

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, *rest: Any, **options: Any
    ) -> Any:
        """See the base class, which gives ``null`` to the parser of a class as ``--key=None``."""
        words = sys.argv[1:] if args is None else args
        words = [re.sub(r"^(--[\w.]+)=None$", r"\1=null", word) for word in words]
        return super().parse_args(words, *rest, **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise an error that names the nearest key; the outermost parser raises an InputError of one line."""
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
    """Name the configuration file that a message about a key is about: the last of several that hold the key.

    Args:
        message: ``trainer.max_steps: five does not fit``.
        words: arguments of the program; those of ``--config`` are ``--config=FILE``. A key given as an option needs no
            file.
    """
    key = re.match(r"[a-z]\w*(?:\.\w+)+", message)
    if key is None or any(word.partition("=")[0] == f"--{key[0]}" for word in words):
        return message
    files = [Path(word.removeprefix("--config=")) for word in words if word.startswith("--config=")]
    holding = [file for file in files if file.is_file() and _holds(read_yaml(file), key[0].split("."))]
    return f"{holding[-1]}: {message}" if holding else message


def _holds(content: object, keys: Sequence[str]) -> bool:
    """Whether nested mappings have a key; ``init_args`` are left out of the keys that users write."""
    if not keys:
        return True
    if not isinstance(content, dict):
        return False
    inside = content.get("init_args")
    return (keys[0] in content and _holds(content[keys[0]], keys[1:])) or (
        isinstance(inside, dict) and _holds(inside, keys)
    )


def _with_nearest_key(message: str, keys: Sequence[str]) -> str:
    """Name the most similar key in the message about one that a parser does not have."""
    if (match := _UNKNOWN.fullmatch(message)) is None:
        return message
    key = match["argument"] or match["plain"] or f"{match['group']}.{match['option']}"
    nearest = difflib.get_close_matches(key, keys, n=1)
    return f"{key}{NO_KEY}" + (f"; did you mean {nearest[0]}?" if nearest else ". --help lists the keys.")


def one_line(message: str) -> str:
    """Shorten an error of jsonargparse to one line: the whole key and the reason, without the list of types tried.

    An error of a class's argument is a tree with one level for each class: ``model``, ``detector.backbone``, reason.
    """
    key = ".".join(dict.fromkeys(_KEY.findall(message)))  # a group's key comes twice
    shown = _KEY.sub("", message).partition("Subclass types expect one of")[0]
    lines = [line.strip().removeprefix("- ") for line in shown.splitlines()]
    reasons = list(dict.fromkeys(_CALLABLE.sub("", line) for line in lines if not _NOISE.match(line)))
    expected = [match for match in map(_EXPECTED.fullmatch, reasons) if match]
    if causes := [reason for reason in reasons if not _EXPECTED.fullmatch(reason)]:
        reason = _with_nearest_name(re.sub(r"[.?]? Got value: .*", "", " ".join(causes)))
        # Beside another reason this one says nothing.
        if (no_class := _NO_CLASS.search(reason)) is not None:
            rest = _NO_CLASS.sub("", reason)
            reason = rest or f"{_given(message.splitlines())} names no {no_class['base']}. Give the path of its class."
    else:
        reason = f"{_given(lines)} does not fit. Give {_alternatives(expected)}."
    if not key:
        return reason
    if NO_KEY in reason:  # both keys of this message are relative
        return f"{key}.{reason.replace('did you mean ', f'did you mean {key}.')}"
    return f"{key}: {reason}"


def _given(lines: Sequence[str]) -> str:
    """The value that does not fit. Messages are nested, and the first line is about the innermost value."""
    return next((match[1] for match in map(_VALUE.search, lines) if match), "the value")


def _alternatives(expected: Sequence[re.Match[str]]) -> str:
    """The types and values that fit, ``int, 'a', 'b' or null``."""
    names = [match["type"] or match["choices"] or "the path of a class" for match in expected]
    names = list(dict.fromkeys(name for given in names for name in given.replace("NoneType", "null").split(", ")))
    return " or ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def _with_nearest_name(reason: str) -> str:
    """Add the most similar class to the message about one that a module does not have."""
    if (match := _NO_ATTRIBUTE.search(reason)) is None:
        return reason
    module = sys.modules.get(match["module"])
    nearest = difflib.get_close_matches(match["name"], {*dir(module), *getattr(module, "__all__", ())}, n=1)
    return f"{match[0]}" + (f"; did you mean {match['module']}.{nearest[0]}?" if nearest else ".")
