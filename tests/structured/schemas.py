"""Schemas as programs have them: objects, arrays, choices and definitions, of what can be enforced."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

Schema = dict[str, Any]
NAMES = ("name", "age", "tags", "Größe", "a b", "x")


@st.composite
def _numbers(draw: st.DrawFn) -> Schema:
    kind = draw(st.sampled_from(("integer", "number")))
    least = draw(st.integers(-1000, 1000))
    return {"type": kind, "minimum": least, "maximum": least + draw(st.integers(0, 500))}


@st.composite
def _strings(draw: st.DrawFn) -> Schema:
    kind = draw(st.sampled_from(("length", "pattern", "format")))
    if kind == "pattern":
        return {"type": "string", "pattern": draw(st.sampled_from((r"^[a-z]{1,5}$", r"^\d{4}-\d\d$", r"^(yes|no)$")))}
    if kind == "format":
        return {"type": "string", "format": draw(st.sampled_from(("date", "time", "date-time", "uuid", "ipv4")))}
    least = draw(st.integers(0, 3))
    return {"type": "string", "minLength": least, "maxLength": least + draw(st.integers(0, 8))}


@st.composite
def _choices(draw: st.DrawFn) -> Schema:
    values = st.one_of(st.none(), st.booleans(), st.integers(-99, 99), st.text(max_size=8))
    return {"enum": draw(st.lists(values, min_size=1, max_size=4))} if draw(st.booleans()) else {"const": draw(values)}


_LEAVES = st.one_of(_numbers(), _strings(), _choices(), st.sampled_from(({"type": "boolean"}, {"type": "null"})))


def _arrays(parts: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    return st.builds(
        lambda items, least, more: {"type": "array", "items": items, "minItems": least, "maxItems": least + more},
        parts,
        st.integers(0, 2),
        st.integers(0, 2),
    )


@st.composite
def _objects(draw: st.DrawFn, parts: st.SearchStrategy[Schema]) -> Schema:
    properties = draw(st.dictionaries(st.sampled_from(NAMES), parts, max_size=4))
    required = [name for name in properties if draw(st.booleans())]
    closed = {"additionalProperties": False} if draw(st.booleans()) else {}
    return {"type": "object", "properties": properties, "required": required, **closed}


@st.composite
def _defined(draw: st.DrawFn, parts: st.SearchStrategy[Schema]) -> Schema:
    """An object that names a part of itself twice."""
    part = {"$ref": "#/$defs/Part"}
    return {"type": "object", "properties": {"a": part, "b": part}, "required": ["a"], "$defs": {"Part": draw(parts)}}


def _nested(parts: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    any_of = st.builds(lambda options: {"anyOf": options}, st.lists(parts, min_size=1, max_size=3))
    return st.one_of(_arrays(parts), _objects(parts), any_of)


_PARTS = st.recursive(_LEAVES, _nested, max_leaves=6)
SCHEMAS: st.SearchStrategy[Schema] = st.one_of(_objects(_PARTS), _defined(_PARTS), _PARTS)
"""Any of them; the root is mostly an object."""

_REFUSED: list[Schema] = [
    {"not": {"type": "string"}},
    {"type": "array", "uniqueItems": True},
    {"type": "array", "contains": {"type": "integer"}},
    {"type": "object", "propertyNames": {"pattern": "^a"}},
    {"type": "string", "pattern": "(?=a)b"},
    {"type": "string", "format": "made-up"},
    {"$ref": "http://example.invalid/schema"},
    {"type": "string", "minLength": 5, "maxLength": 2},
    {"type": "integer", "minimum": 5, "maximum": 2},
]
ALL_SCHEMAS: st.SearchStrategy[Schema] = st.one_of(*[SCHEMAS] * 9, _objects(st.sampled_from(_REFUSED)))
"""Some of them with what no grammar enforces, or nothing fits."""
