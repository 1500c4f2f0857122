"""Frozen records as Arrow schemas, and tables of an older record brought to the present one."""

import dataclasses
import types
import typing
from typing import Any, Final

import numpy as np
import pyarrow as pa

_SCALARS: Final = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


def record_fields(record: type) -> list[pa.Field]:
    """One Arrow field per field of a dataclass: scalars, literals, optionals, tuples, dicts and dataclasses in it."""
    hints = typing.get_type_hints(record)
    return [pa.field(f.name, _arrow_type(hints[f.name])) for f in dataclasses.fields(record)]


def _arrow_type(hint: Any) -> pa.DataType:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in _SCALARS:
        return _SCALARS[hint]
    if origin is typing.Literal:
        return pa.string()
    if origin is types.UnionType:
        return _arrow_type(_not_none(arguments))
    if origin is tuple:
        return pa.list_(_arrow_type(arguments[0]))
    if origin is dict:
        return pa.map_(_arrow_type(arguments[0]), _arrow_type(arguments[1]))
    return pa.struct(record_fields(hint))


def fit_schema(table: pa.Table, record: type, schema: pa.Schema) -> pa.Table:
    """A table of an older `record` with the columns of `schema`, a choice of the present record's fields.

    What the table lacks, in nested records too, takes the field's default, or null where it has none; what the record
    no longer has is left out.

    Raises:
        pa.ArrowException: a column cannot be what the record says.
    """
    hints, defaults = typing.get_type_hints(record), _defaults(record)
    columns = []
    for field in schema:
        if field.name in table.column_names:
            columns.append(_fitted(table[field.name].combine_chunks(), hints[field.name], field.type))
        else:
            columns.append(_filled(defaults.get(field.name), table.num_rows, field.type))
    return pa.table(columns, schema=schema)


def _fitted(array: pa.Array, hint: Any, wanted: pa.DataType) -> pa.Array:
    if array.type.equals(wanted):
        return array
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return _fitted(array, _not_none(arguments), wanted)
    if isinstance(array, pa.ListArray) and origin is tuple:
        values = _fitted(array.values, arguments[0], wanted.value_type)
        return pa.ListArray.from_arrays(array.offsets, values, mask=array.is_null())
    if isinstance(array, pa.StructArray) and dataclasses.is_dataclass(hint):
        record = typing.cast(type, hint)
        hints, defaults, known = typing.get_type_hints(record), _defaults(record), {f.name for f in array.type}
        children = [
            _fitted(array.field(f.name), hints[f.name], f.type)
            if f.name in known
            else _filled(defaults.get(f.name), len(array), f.type)
            for f in wanted
        ]
        return pa.StructArray.from_arrays(children, fields=list(wanted), mask=array.is_null())
    return array.cast(wanted)


def _filled(default: Any, count: int, wanted: pa.DataType) -> pa.Array:
    plain = dataclasses.asdict(default) if dataclasses.is_dataclass(default) else default  # type: ignore[arg-type]
    return pa.array([plain], wanted).take(pa.array(np.zeros(count, np.int64)))


def _defaults(record: type) -> dict[str, Any]:
    found = {}
    for field in dataclasses.fields(record):
        if field.default is not dataclasses.MISSING:
            found[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            found[field.name] = field.default_factory()
    return found


def _not_none(arguments: tuple[Any, ...]) -> Any:
    return next(a for a in arguments if a is not type(None))
