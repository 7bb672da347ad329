"""Settings files: YAML to frozen dataclasses and back.

A dataclass is its own schema: its annotations say which keys and types a file may hold. An unknown key or a wrong
type is an error that names the nearest right key.
"""

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from hardnet.errors import SettingsError

T = TypeVar("T")
_POWER_OF_TEN = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")  # YAML 1.1 takes 1e-4, without a point, for text


def find(given: str, package: Path, checkout: Path) -> Path:
    """The file of a configuration that is given by name or by path.

    Args:
        given: the name of a shipped file without its suffix (``objects``; what else is called so needs a ``./`` before
            it), or a path.
        package: where the shipped files lie in an installed package.
        checkout: where they lie in a checkout of the repository, if the package has none.

    Raises:
        SettingsError: a plain name that no shipped file and no other file has.
    """
    folder = package if package.is_dir() else checkout
    shipped = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    if given in shipped:
        return shipped[given]
    path = Path(given)
    if path.suffix not in (".yaml", ".yml") and path.name == given and not path.is_file():
        near = difflib.get_close_matches(given, shipped, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise SettingsError(f"{given!r} is no file and no shipped configuration{hint}: those are {', '.join(shipped)}")
    return path


def read_tree(path: str | Path) -> dict[str, Any]:
    """The mapping that a YAML file holds; empty for an empty file.

    Raises:
        SettingsError: unreadable, or not a mapping.
    """
    try:
        loaded = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"cannot read the configuration {path}: {_one_line(error)}") from error
    if loaded is not None and not isinstance(loaded, dict):
        raise SettingsError(f"{path}: expected 'section: {{key: value}}' at the top, got {type(loaded).__name__}")
    return loaded or {}


def override(tree: dict[str, Any], overrides: Iterable[str]) -> None:
    """Applies ``key.sub=value`` strings to nested dicts in place; values are parsed as YAML.

    Raises:
        SettingsError: no such form, or a value that is no YAML.
    """
    for text in overrides:
        key, equals, value_text = text.partition("=")
        if not equals or not key.strip():
            raise SettingsError(f"--set {text!r}: expected key=value, for example detector.threshold=4")
        try:
            value = yaml.safe_load(value_text)
        except yaml.YAMLError as error:
            raise SettingsError(f"--set {text!r}: the value is not valid YAML: {_one_line(error)}") from error
        _assign(tree, key.strip().split("."), value, text)


def build(kind: type[T], tree: Any, prefix: str = "", root: type | None = None) -> T:
    """A dataclass from nested mappings, as `to_tree` returns them.

    Args:
        kind: the dataclass.
        tree: its values; missing keys take their defaults.
        prefix: dotted path of `tree` in the whole file, for messages.
        root: the dataclass of the whole file, in which nearest keys are looked for; None for `kind`.

    Raises:
        SettingsError: unknown key or wrong type.
    """
    root = root or kind
    if not isinstance(tree, Mapping):
        raise SettingsError(f"{prefix.rstrip('.') or 'the configuration'}: expected a mapping, got {tree!r}")
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for key, value in tree.items():
        if key not in hints:
            raise SettingsError(_unknown(f"{prefix}{key}", root))
        hint = hints[key]
        if dataclasses.is_dataclass(hint):
            assert isinstance(hint, type)
            values[key] = build(hint, {} if value is None else value, f"{prefix}{key}.", root)
        else:
            values[key] = _coerce(f"{prefix}{key}", value, hint, root)
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and field.name not in values:
            raise SettingsError(f"{prefix}{field.name} is missing: add it to the configuration")
    return kind(**values)


def to_tree(settings: Any) -> dict[str, Any]:
    """A dataclass as plain nested dicts and lists, ready for YAML or JSON."""
    return {field.name: _plain(getattr(settings, field.name)) for field in dataclasses.fields(settings)}


def flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The single values of nested dicts and lists with their dotted keys, in order (``phases.0.batch``)."""
    if isinstance(tree, Mapping | list):
        for key, value in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
            yield from flat(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, tree


def known_keys(kind: type, prefix: str = "") -> list[str]:
    """Every dotted key of a dataclass, in order; elements of lists as ``key.0.sub``."""
    keys: list[str] = []
    for key, hint in typing.get_type_hints(kind).items():
        element = _element(hint)
        if dataclasses.is_dataclass(hint):
            assert isinstance(hint, type)
            keys += known_keys(hint, f"{prefix}{key}.")
        elif isinstance(element, type) and dataclasses.is_dataclass(element):
            keys += known_keys(element, f"{prefix}{key}.0.")
        else:
            keys.append(f"{prefix}{key}")
    return keys


def one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raises SettingsError where `value` is not among `allowed`."""
    if value not in allowed:
        raise SettingsError(f"{key}: expected one of {', '.join(allowed)}, got {value!r}")


def at_least(key: str, value: float | None, least: float) -> None:
    """Raises SettingsError where `value` is below `least`; None passes."""
    if value is not None and value < least:
        raise SettingsError(f"{key}: expected at least {least}, got {value!r}")


def _coerce(key: str, value: Any, hint: Any, root: type) -> Any:
    """Checks one value against its annotated type; ints and ``1e-4`` are accepted for floats, lists for tuples."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if float in options and str not in options and isinstance(value, str) and _POWER_OF_TEN.fullmatch(value):
        value = float(value)
    for option in options:
        if option is type(None) and value is None:
            return None
        if option is bool and isinstance(value, bool):
            return value
        if option is float and isinstance(value, int | float) and not isinstance(value, bool):
            if not math.isfinite(value):
                raise SettingsError(f"{key}: expected a finite number, got {value!r}")
            return float(value)
        if option is int and isinstance(value, int) and not isinstance(value, bool):
            return value
        if option is str and isinstance(value, str):
            return value
        element = _element(option)
        if element is not None and isinstance(value, list | tuple):
            return tuple(
                build(element, item, f"{key}.{index}.", root)
                if isinstance(element, type) and dataclasses.is_dataclass(element)
                else _coerce(f"{key}.{index}", item, element, root)
                for index, item in enumerate(value)
            )
        if dataclasses.is_dataclass(option) and isinstance(value, Mapping):
            assert isinstance(option, type)
            return build(option, value, f"{key}.", root)
    names = " or ".join(
        "null" if option is type(None) else getattr(option, "__name__", str(option)) for option in options
    )
    raise SettingsError(f"{key}: expected {names}, got {value!r}")


def _element(hint: Any) -> Any:
    """T of ``tuple[T, ...]``, else None."""
    if typing.get_origin(hint) is not tuple:
        return None
    return typing.get_args(hint)[0]


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_tree(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _unknown(key: str, root: type) -> str:
    candidates = known_keys(root) + list(typing.get_type_hints(root))
    nearest = difflib.get_close_matches(key, candidates, n=1, cutoff=0.0)
    by_leaf = [name for name in candidates if name.split(".")[-1] == key.split(".")[-1]]
    return f"unknown configuration key '{key}'; the nearest known key is '{(by_leaf or nearest)[0]}'"


def _assign(tree: dict[str, Any], path: list[str], value: Any, text: str) -> None:
    """Sets one value; a number in the path is a place in a list."""
    node: Any = tree
    for depth, part in enumerate(path):
        last = depth == len(path) - 1
        if isinstance(node, list):
            if not part.isdigit() or int(part) >= len(node):
                raise SettingsError(f"--set {text!r}: {part!r} is not a place in a list of {len(node)}")
            if last:
                node[int(part)] = value
            else:
                node = node[int(part)]
        elif not isinstance(node, dict):
            raise SettingsError(f"--set {text!r}: '{path[depth - 1]}' is not a section")
        elif last:
            node[part] = value
        else:
            node = node.setdefault(part, {})


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
