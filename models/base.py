"""What every table leans on: metadata, column helpers, ids, and set-based inserts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

import uuid_utils.compat
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    MetaData,
    Table,
    Text,
    func,
    text,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Connection
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
"""Every table of tocsin; `models.tables` fills it."""

Timestamp = DateTime(timezone=True)
"""A point in time, to the microsecond."""

TextList = ARRAY(Text)

_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call] # SQLAlchemy's own gap


def id_column() -> Column[int]:
    """An id made by the server, unless another system's id is carried over."""
    return Column("id", BigInteger, Identity(always=False), primary_key=True)


def foreign_key(name: str, target: str, *, nullable: bool = False, primary_key: bool = False) -> Column[int]:
    """A foreign key to ``table.column`` that goes when its target goes."""
    return Column(name, BigInteger, ForeignKey(target, ondelete="CASCADE"), nullable=nullable, primary_key=primary_key)


def moment_column(name: str, *, nullable: bool = False) -> Column[datetime]:
    """A point in time; unless nullable it is now by the server's clock."""
    if nullable:
        return Column(name, Timestamp, nullable=True)
    return Column(name, Timestamp, nullable=False, server_default=func.clock_timestamp())


class TransactionNumber(UserDefinedType[int]):
    """A transaction as the server counts them: ``xid8``."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        """Its name in the server."""
        return "xid8"


def written_columns() -> tuple[Column[int], Column[int]]:
    """Which transaction wrote a row, and below which number all had ended by then: what a reader's cursor goes by."""
    return (
        Column("written_by", TransactionNumber, nullable=False, server_default=text("pg_current_xact_id()")),
        Column(
            "written_after",
            TransactionNumber,
            nullable=False,
            server_default=text("pg_snapshot_xmin(pg_current_snapshot())"),
        ),
    )


def new_id() -> UUID:
    """A uuid7: unique anywhere, and sorted by the time it was made."""
    return uuid_utils.compat.uuid7()


def select_list(columns: Iterable[Column[Any]], alias: str) -> str:
    """Return columns as the select list of a statement in SQL text: ``i.id, i.title``."""
    return ", ".join(f"{alias}.{column.name}" for column in columns)


@lru_cache(maxsize=256)
def insert_statement(table: Table, columns: tuple[str, ...], tail: str = "") -> str:
    """One INSERT for any number of rows, for psycopg: a binary array per column, named after it.

    JSON columns take strings of JSON. Rows are inserted, and identities drawn, in the order of the arrays.
    ``tail`` follows the VALUES (``ON CONFLICT …``, ``RETURNING …``).
    """
    arrays = ", ".join(f"%({name})b::{_array_type(table.c[name].type)}" for name in columns)
    picks = ", ".join(
        f"u.{name}::{_type_name(table.c[name].type)}" if _travels_as_text(table.c[name].type) else f"u.{name}"
        for name in columns
    )
    names = ", ".join(columns)
    return (
        f"INSERT INTO {table.name} ({names}) SELECT {picks}"  # noqa: S608 - names of our own tables and columns
        f" FROM unnest({arrays}) WITH ORDINALITY AS u({names}, place) ORDER BY u.place {tail}"
    )


def column_arrays(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Mapping[str, list[Any]]:
    """Turn rows into the arrays that :func:`insert_statement` takes."""
    turned = list(zip(*rows, strict=True))
    return {name: list(values) for name, values in zip(columns, turned, strict=True)}


def insert_rows(
    connection: Connection, table: Table, columns: tuple[str, ...], rows: Iterable[Sequence[Any]], tail: str = ""
) -> None:
    """Insert rows with :func:`insert_statement`; without any, nothing is asked of the server."""
    listed = list(rows)
    if listed:
        connection.exec_driver_sql(insert_statement(table, columns, tail), dict(column_arrays(columns, listed)))


def _travels_as_text(kind: TypeEngine[Any]) -> bool:
    return isinstance(kind, (postgresql.JSON, postgresql.JSONB))


def _type_name(kind: TypeEngine[Any]) -> str:
    return kind.compile(dialect=_DIALECT)


def _array_type(kind: TypeEngine[Any]) -> str:
    return "text[]" if _travels_as_text(kind) else f"{_type_name(kind)}[]"
