"""A settings tree in words: every key with its type, default and description."""

import json
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined


@dataclass(frozen=True)
class SettingRow:
    """One key of a settings tree, in words."""

    key: str
    type: str
    default: str
    description: str

    def markdown(self) -> str:
        """A table row: key, type, default, description."""
        cells = (f"`{self.key}`", self.type, f"`{self.default}`", self.description)
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def describe_settings(cls: type[BaseModel]) -> list[SettingRow]:
    """Every key of the tree under ``cls`` in order of definition, dotted, branches included."""
    return list(_rows(cls, ""))


def settings_table(cls: type[BaseModel]) -> str:
    """`describe_settings` as a markdown table."""
    head = ["| key | type | default | |", "|---|---|---|---|"]
    return "\n".join(head + [row.markdown() for row in describe_settings(cls)])


def _rows(cls: type[BaseModel], prefix: str) -> Iterator[SettingRow]:
    for name, field in cls.model_fields.items():
        key = f"{prefix}{name}"
        branch = _branch(field.annotation)
        optional = type(None) in typing.get_args(field.annotation)
        described = field.description or (branch and branch.__doc__) or ""
        if branch is None or optional or field.description:
            yield SettingRow(key, _type_words(field), _default_words(field), described)
        if branch is not None:
            inner = f"{key}.<key>." if typing.get_origin(field.annotation) is dict else f"{key}."
            yield from _rows(branch, inner)


def _branch(annotation: Any) -> type[BaseModel] | None:
    """The settings class inside ``X``, ``X | None`` or ``dict[str, X]``."""
    candidates = [annotation, *typing.get_args(annotation)]
    return next(
        (item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel)),
        None,
    )


def _type_words(field: FieldInfo) -> str:
    limits = "".join(
        f" {sign} {getattr(limit, attribute):g}"
        for limit in field.metadata
        for attribute, sign in (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<="))
        if hasattr(limit, attribute)
    )
    return _annotation_words(field.annotation) + limits


def _annotation_words(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _type_words(FieldInfo.from_annotation(annotation))
    if origin is typing.Literal:
        return ", ".join(json.dumps(option) for option in arguments)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(map(_annotation_words, arguments))
    if origin is tuple:
        items = dict.fromkeys(map(_annotation_words, (a for a in arguments if a is not Ellipsis)))
        count = "" if Ellipsis in arguments else f"{len(arguments)} "
        return f"list of {count}{', '.join(items)}"
    if origin is dict:
        return f"map to {_annotation_words(arguments[1])}"
    if annotation is type(None):
        return "null"
    if _branch(annotation):
        return "settings"
    names = {str: "text", int: "integer", float: "number", bool: "true, false", Any: "any"}
    return names.get(annotation, str(annotation))


def _default_words(field: FieldInfo) -> str:
    if field.default_factory is not None:
        return "{}"
    if field.default is PydanticUndefined:
        return "required"
    if isinstance(field.default, BaseModel):
        return "as below"
    return json.dumps(field.default)
