"""YAML files composed over their bases, and ``key=value`` overrides."""

import copy
import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from model.config.settings import ConfigError


class _StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader, except that a repeated key is an error and 1e-4 is a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        names = [key.value for key, _ in node.value]
        for name in names:
            if names.count(name) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {name!r} is given twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


# YAML 1.1 requires a dot in a number with an exponent; without this, 1e-4 would be a string.
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def compose_yaml(path: str | Path, installed: Path | None = None) -> dict[str, Any]:
    """Read a YAML file on top of the files that its top-level ``base`` names.

    Args:
        path: the file. Its ``base`` is a path or a list of paths relative to the file; later ones
            override earlier ones. Mappings merge key by key, everything else is replaced.
        installed: folder in which a relative path is looked up that leads nowhere else; it holds
            the recipes that are delivered, ``configs/...``.

    Raises:
        ConfigError: a file cannot be read, is not YAML, is not a mapping, or is its own base.
    """
    return _compose(_locate(Path(path).expanduser(), Path.cwd(), installed), (), installed)


def _locate(path: Path, folder: Path, installed: Path | None) -> Path:
    """Return the absolute path of a file relative to ``folder``, or to ``installed``."""
    local = (folder / path).resolve()
    if local.exists() or path.is_absolute() or installed is None:
        return local
    delivered = (installed / path).resolve()
    return delivered if delivered.is_file() else local


def _compose(path: Path, derived: tuple[Path, ...], installed: Path | None) -> dict[str, Any]:
    """Compose ``path``; ``derived`` is the chain of files that have it as a base."""
    if path in derived:
        chain = " -> ".join(str(file) for file in (*derived, path))
        raise ConfigError([f"base: circular reference: {chain}"])
    try:
        tree = yaml.load(path.read_text(), Loader=_StrictLoader)
    except OSError as error:
        where = f" (base of {derived[-1]})" if derived else ""
        raise ConfigError([f"cannot read {path}{where}: {error.strerror}"]) from error
    except yaml.YAMLError as error:
        raise ConfigError([f"{path} is not valid YAML: {' '.join(str(error).split())}"]) from error
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise ConfigError([f"{path} must hold a mapping of settings; got {type(tree).__name__}"])
    bases = tree.pop("base", [])
    merged: dict[str, Any] = {}
    for base in [bases] if isinstance(bases, str) else bases:
        file = _locate(Path(base), path.parent, installed)
        merged = merge_settings(merged, _compose(file, (*derived, path), installed))
    return merge_settings(merged, tree)


def merge_settings(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two trees of settings: mappings key by key, everything else is replaced."""
    merged = dict(base)
    for key, value in override.items():
        old = merged.get(key)
        both_mappings = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = merge_settings(old, value) if both_mappings else value  # type: ignore[arg-type]
    return merged


def apply_overrides(tree: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a copy of the tree with each ``a.b=value`` applied.

    Values are read as YAML: ``a=[1, 2]``, ``a=null``.

    Raises:
        ConfigError: lists every override that is not ``key=value``, or that sets a key below a
            plain value.
    """
    result = copy.deepcopy(dict(tree))
    problems = []
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not re.fullmatch(r"[^.\s]+(\.[^.\s]([^.]*[^.\s])?)*", key):
            problems.append(f"{override!r} is not an override; write key.sub_key=value")
            continue
        try:
            value = yaml.load(text, Loader=_StrictLoader)
        except yaml.YAMLError:
            problems.append(f"{key}: {text!r} is not a YAML value; quote it?")
            continue
        *parents, leaf = key.split(".")
        node: Any = result
        for parent in parents:
            if node.get(parent) is None:
                node[parent] = {}
            node = node[parent]
            if not isinstance(node, dict):
                problems.append(f"{key}: {parent} is the plain value {node!r} and has no keys")
                break
        else:
            node[leaf] = value
    if problems:
        raise ConfigError(problems)
    return result
