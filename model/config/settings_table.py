"""Reference table of a settings tree: every key with its type, default and description."""

import json
import re
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
    """One key of a settings tree, as text."""

    key: str
    type: str
    default: str
    description: str

    def markdown(self) -> str:
        """Return the row of a markdown table: key, type, default, description."""
        cells = (f"`{self.key}`", self.type, f"`{self.default}`", self.description)
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def list_settings(cls: type[BaseModel]) -> list[SettingRow]:
    """Return every key of the tree under ``cls``, dotted and in order of definition.

    Sections have a row of their own if they can be null or have a description.
    """
    return list(_rows(cls, ""))


def settings_table(cls: type[BaseModel]) -> str:
    """Return `list_settings` as a markdown table."""
    head = ["| key | type | default | description |", "|---|---|---|---|"]
    return "\n".join(head + [row.markdown() for row in list_settings(cls)])


def _rows(cls: type[BaseModel], prefix: str) -> Iterator[SettingRow]:
    for name, field in cls.model_fields.items():
        key = f"{prefix}{name}"
        section = _section(field.annotation)
        optional = type(None) in typing.get_args(field.annotation)
        description = field.description or (section and section.__doc__) or ""
        if section is None or optional or field.description:
            yield SettingRow(key, _type_text(field), _default_text(field), description)
        if section is not None:
            inner = f"{key}.<key>." if typing.get_origin(field.annotation) is dict else f"{key}."
            yield from _rows(section, inner)


def _section(annotation: Any) -> type[BaseModel] | None:
    """Return the settings class inside ``X``, ``X | None`` or ``dict[str, X]``, if any."""
    candidates = [annotation, *typing.get_args(annotation)]
    return next(
        (item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel)),
        None,
    )


def _type_text(field: FieldInfo) -> str:
    limits = {
        sign: f"{getattr(limit, attribute):g}"
        for limit in field.metadata
        for attribute, sign in (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<="))
        if hasattr(limit, attribute)
    }
    name = _annotation_text(field.annotation)
    if limits.keys() == {">=", "<="}:
        return f"{name} in [{limits['>=']}, {limits['<=']}]"
    return " ".join([name, *(f"{sign} {limit}" for sign, limit in limits.items())])


def _annotation_text(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _type_text(FieldInfo.from_annotation(annotation))
    if origin is typing.Literal:
        return ", ".join(json.dumps(option) for option in arguments)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(map(_annotation_text, arguments))
    if origin is tuple:
        types_of_items = (argument for argument in arguments if argument is not Ellipsis)
        item = " or ".join(dict.fromkeys(map(_annotation_text, types_of_items)))
        items = re.sub(r"^(string|integer|number)\b", r"\1s", item)
        return f"list of {items}" if Ellipsis in arguments else f"list of {len(arguments)} {items}"
    if origin is dict:
        return f"map to {_annotation_text(arguments[1])}"
    if annotation is type(None):
        return "null"
    if _section(annotation):
        return "settings"
    names = {str: "string", int: "integer", float: "number", bool: "boolean", Any: "any"}
    return names.get(annotation, str(annotation))


def _default_text(field: FieldInfo) -> str:
    if field.default_factory is not None:
        return "{}"
    if field.default is PydanticUndefined:
        return "required"
    if isinstance(field.default, BaseModel):
        return "as below"
    return json.dumps(field.default)
