"""Building blocks for tables: shared metadata, column constructors, ids and multi-row inserts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from itertools import islice
from typing import Any, Final
from uuid import UUID

import uuid_utils.compat
from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    MetaData,
    Select,
    Table,
    Text,
    func,
    text,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Connection, CursorResult
from sqlalchemy.types import TypeEngine, UserDefinedType

METADATA = MetaData(
    naming_convention={
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ck": "%(table_name)s_%(constraint_name)s_check",
        "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
        "pk": "%(table_name)s_pkey",
    }
)
"""The metadata of every table. Importing :mod:`models.tables` completes it."""

ROWS_PER_STATEMENT: Final = 10_000
"""How many rows one statement writes at most.

A statement may take 5 s in a worker. To subscribe a team of 100,000 in one took 3.4 s on a busy machine.
"""

Timestamp = DateTime(timezone=True)
"""The column type for points in time: ``timestamptz``, with microsecond precision."""

TextList = ARRAY(Text)

_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call] # SQLAlchemy does not annotate it


def id_column() -> Column[int]:
    """Return a primary key column.

    The server generates the id, unless the insert supplies one, for example from another system.
    """
    return Column("id", BigInteger, Identity(always=False), primary_key=True)


def foreign_key(name: str, target: str, *, nullable: bool = False, primary_key: bool = False) -> Column[int]:
    """Return a foreign key to ``table.column``. Deleting the target row also deletes the rows that refer to it."""
    return Column(name, BigInteger, ForeignKey(target, ondelete="CASCADE"), nullable=nullable, primary_key=primary_key)


def timestamp_column(name: str, *, nullable: bool = False) -> Column[datetime]:
    """Return a column for a point in time. Unless it is nullable, it defaults to the server's current time."""
    if nullable:
        return Column(name, Timestamp, nullable=True)
    return Column(name, Timestamp, nullable=False, server_default=func.clock_timestamp())


def enum_check(column: str, values: Iterable[str]) -> CheckConstraint:
    """Return a constraint that allows only these values in the column."""
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=column)


class TransactionId(UserDefinedType[int]):
    """The column type for 64-bit transaction ids: ``xid8``."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        """Return the type's name in SQL."""
        return "xid8"


def transaction_columns() -> tuple[Column[int], Column[int]]:
    """Return the columns that let a reader resume without missing rows that are committed late.

    ``written_by`` is the id of the transaction that wrote the row. When the row was written, every transaction with an
    id below ``written_after`` had already ended.
    """
    return (
        Column("written_by", TransactionId, nullable=False, server_default=text("pg_current_xact_id()")),
        Column(
            "written_after",
            TransactionId,
            nullable=False,
            server_default=text("pg_snapshot_xmin(pg_current_snapshot())"),
        ),
    )


def new_id() -> UUID:
    """Return a new UUIDv7, which is globally unique and sorts by creation time."""
    return uuid_utils.compat.uuid7()


def select_list(columns: Iterable[Column[Any]], alias: str) -> str:
    """Return the columns as a select list in SQL, for example ``i.id, i.title``."""
    return ", ".join(f"{alias}.{column.name}" for column in columns)


def statement_text(statement: Select[Any]) -> str:
    """Return a statement as SQL text for psycopg, with its values as literals."""
    return str(statement.compile(dialect=_DIALECT, compile_kwargs={"literal_binds": True}))


@lru_cache(maxsize=256)
def insert_statement(
    table: Table,
    columns: tuple[str, ...],
    tail: str = "",
    *,
    extra: tuple[tuple[str, str], ...] = (),
    computed: tuple[tuple[str, str], ...] = (),
    condition: str = "true",
) -> str:
    """Return an INSERT statement for psycopg that inserts any number of rows.

    Each column has one binary array parameter with the column's name. JSON columns take serialized JSON. Rows are
    inserted, and identities generated, in the order of the arrays. ``tail`` is appended to the statement, for
    example ``RETURNING id``. ``extra`` holds the names and array types of parameters that are not columns, and
    ``computed`` maps columns to SQL expressions that replace the values sent; expressions see the sent row as ``u``.
    Nothing is inserted unless ``condition`` holds, which is evaluated first if it does not depend on the row.
    """
    expressions = dict(computed)
    names = ", ".join(columns)
    values = ", ".join(expressions.get(name) or _sent_value(table, name) for name in columns)
    arrays = ", ".join((_arrays(table, columns), *(f"%({name})b::{type_}" for name, type_ in extra)))
    sent = ", ".join((*columns, *(name for name, _ in extra), "ordinal"))
    return (
        f"INSERT INTO {table.name} ({names}) SELECT {values}"  # noqa: S608 - names of our own tables and columns
        f" FROM unnest({arrays}) WITH ORDINALITY AS u({sent}) WHERE {condition} ORDER BY u.ordinal {tail}"
    )


@lru_cache(maxsize=256)
def update_statement(table: Table, columns: tuple[str, ...]) -> str:
    """Return an UPDATE statement for psycopg that updates any number of rows.

    The first column identifies the row, and the others are set. Parameters are those of :func:`insert_statement`.
    """
    key, *changed = columns
    values = ", ".join(f"{name} = {_sent_value(table, name)}" for name in changed)
    return (
        f"UPDATE {table.name} SET {values}"  # noqa: S608 - names of our own tables and columns
        f" FROM unnest({_arrays(table, columns)}) AS u({', '.join(columns)}) WHERE {table.name}.{key} = u.{key}"
    )


def column_arrays(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Mapping[str, list[Any]]:
    """Transpose rows into the array parameters for these statements, by column name."""
    return {name: list(values) for name, values in zip(columns, zip(*rows, strict=True), strict=True)}


def require_columns(result: CursorResult[Any], names: Sequence[str]) -> None:
    """Check once per statement that its columns have these names, in this order, so that rows may be built as tuples.

    Building thousands of rows by keyword would take ten times as long.

    :raises RuntimeError: if they do not.
    """
    if tuple(result.keys()) != tuple(names):
        raise RuntimeError(f"the statement returns the columns {', '.join(result.keys())}, not {', '.join(names)}")


def insert_rows(
    connection: Connection, table: Table, columns: tuple[str, ...], rows: Iterable[Sequence[Any]], tail: str = ""
) -> None:
    """Insert the rows with an :func:`insert_statement` for each :data:`ROWS_PER_STATEMENT` of them."""
    for chunk in _chunks(rows):
        connection.exec_driver_sql(insert_statement(table, columns, tail), dict(column_arrays(columns, chunk)))


def update_rows(connection: Connection, table: Table, columns: tuple[str, ...], rows: Iterable[Sequence[Any]]) -> None:
    """Update the rows with an :func:`update_statement` for each :data:`ROWS_PER_STATEMENT` of them."""
    for chunk in _chunks(rows):
        connection.exec_driver_sql(update_statement(table, columns), dict(column_arrays(columns, chunk)))


def _chunks(rows: Iterable[Sequence[Any]]) -> Iterator[list[Sequence[Any]]]:
    remaining = iter(rows)
    while chunk := list(islice(remaining, ROWS_PER_STATEMENT)):
        yield chunk


def _arrays(table: Table, columns: Iterable[str]) -> str:
    return ", ".join(f"%({name})b::{_array_type(table.c[name].type)}" for name in columns)


def _sent_value(table: Table, name: str) -> str:
    type_ = table.c[name].type
    return f"u.{name}::{_type_name(type_)}" if _is_sent_as_text(type_) else f"u.{name}"


def _is_sent_as_text(type_: TypeEngine[Any]) -> bool:
    return isinstance(type_, (postgresql.JSON, postgresql.JSONB))


def _type_name(type_: TypeEngine[Any]) -> str:
    return type_.compile(dialect=_DIALECT)


def _array_type(type_: TypeEngine[Any]) -> str:
    return "text[]" if _is_sent_as_text(type_) else f"{_type_name(type_)}[]"
