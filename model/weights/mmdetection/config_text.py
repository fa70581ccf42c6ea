"""The training config that MMDetection saves with weights, as text. It is read, never executed.

The text is a Python file: assignments of ``dict(...)``, lists, strings and numbers, with everything
it inherits written out. Only such literals are evaluated; anything else is left out.
"""

import ast
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

# Texts of published models have 10 to 40 thousand characters.
MAX_CHARACTERS = 300_000

Tree = dict[str, Any]


class _NotALiteral(Exception):  # noqa: N818
    """An expression that would have to be executed."""


def parse_config_text(text: object) -> Tree | None:
    """Return the assigned values by name; None if the text has no complete config of a model.

    Args:
        text: value of ``meta["config"]`` (MMDetection 2) or ``meta["cfg"]`` (MMDetection 3).
    """
    if not isinstance(text, str) or len(text) > MAX_CHARACTERS:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of invalid escapes in strings
            tree = _assigned_values(ast.parse(text))
    # Hostile text: null bytes, and nesting that the parser or this module cannot follow.
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    model = tree.get("model")
    # MMDetection 2.0 saved the files that a config inherits from one after the other, unmerged.
    is_complete = isinstance(model, dict) and "type" in model and "_base_" not in tree
    return tree if is_complete else None


def value_at(tree: object, path: str) -> Any:
    """Return the value at dotted keys of nested dicts; None if there is none."""
    for key in path.split("."):
        if not isinstance(tree, Mapping):
            return None
        tree = tree.get(key)
    return tree


def inference_transforms(tree: Tree) -> list[Tree]:
    """Return the steps that prepare an image in inference, those inside of others too."""
    for path in ("data.test.pipeline", "test_dataloader.dataset.pipeline", "test_pipeline"):
        steps = list(_transforms(value_at(tree, path)))
        if steps:
            return steps
    return []


def _transforms(steps: object) -> Iterator[Tree]:
    for step in steps if isinstance(steps, list) else ():
        if isinstance(step, dict):
            yield step
            yield from _transforms(step.get("transforms"))


def _assigned_values(module: ast.Module) -> Tree:
    tree: Tree = {}
    for statement in module.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=node):
                try:
                    tree[name] = _value(node)
                except _NotALiteral:
                    tree.pop(name, None)
    return tree


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=str() | bool() | int() | float() | None):
            return node.value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float())):
            return -node.operand.value  # type: ignore[attr-defined]
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_value(item) for item in items]
        case ast.Dict(keys=keys, values=values):
            return _entries(
                (getattr(key, "value", None), value)
                for key, value in zip(keys, values, strict=True)
            )
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=keywords):
            return _entries((keyword.arg, keyword.value) for keyword in keywords)
        case ast.Call(func=ast.Name(id="dict"), args=[ast.Dict() as entries], keywords=[]):
            return _value(entries)
    raise _NotALiteral


def _entries(pairs: Iterator[tuple[object, ast.expr]]) -> Tree:
    """Return the entries with names and literal values."""
    tree: Tree = {}
    for name, node in pairs:
        if isinstance(name, str):
            try:
                tree[name] = _value(node)
            except _NotALiteral:
                continue
    return tree
