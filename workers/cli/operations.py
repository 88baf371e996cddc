"""What the commands for operators share: who runs them, options, and tables that user text cannot break out of."""

from __future__ import annotations

import getpass
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final
from uuid import UUID

import typer
from sqlalchemy.engine import Connection

from models.refusals import Refusal
from workers.cli.common import print_line
from workers.cli.database import transaction
from workers.cli.errors import CliError

ReasonOption = Annotated[str | None, typer.Option("--reason", metavar="R", help="Why: it goes to the audit log.")]
LimitOption = Annotated[int, typer.Option("--limit", min=1, max=10_000, help="Maximum number of rows.")]


def group(help_: str) -> typer.Typer:
    """Return a group of commands."""
    made = typer.Typer(
        add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=True
    )
    made.callback(help=help_)(lambda: None)
    return made


def operator() -> str:
    """Return who runs the command, as the audit log names them."""
    try:
        return f"terminal:{getpass.getuser()}"
    except (KeyError, OSError):
        return "terminal:unknown"


@contextmanager
def operations(data: Path | None) -> Iterator[Connection]:
    """Yield a connection in a transaction, as :func:`~workers.cli.database.transaction` does.

    :raises CliError: an operation refuses, in a sentence.
    """
    try:
        with transaction(data) as connection:
            yield connection
    except Refusal as refusal:
        raise CliError(describe_refusal(refusal)) from None


def describe_refusal(refusal: Refusal) -> str:
    """Return a refusal as one sentence.

    >>> from models.refusals import InvalidFields
    >>> describe_refusal(InvalidFields({"reason": ["This field is required."]}))
    '--reason: This field is required'
    """
    if isinstance(refusal.body, Mapping) and "detail" not in refusal.body:
        return "; ".join(
            f"{_OPTIONS.get(name, f'--{name}')}: {' '.join(map(str, errors if isinstance(errors, list) else [errors]))}"
            for name, errors in refusal.body.items()
        ).rstrip(".")
    return str(refusal.body["detail"] if isinstance(refusal.body, Mapping) else refusal.body).rstrip(".")


_OPTIONS: Final = {"scope": "SCOPE", "target": "TARGET", "releaseAt": "--until", "ratePerSecond": "--rate", "ids": "ID"}


def parse_id(text: str, of: str) -> UUID:
    """Return the id of a command or a delivery.

    :raises CliError: it is not an id.
    """
    try:
        return UUID(text)
    except ValueError:
        raise CliError(f"{clean(text)} is not an id of a {of}") from None


def parse_number(text: str, of: str) -> int:
    """Return the number of a hold or an operation.

    :raises CliError: it is not a number.
    """
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise CliError(f"{clean(text)} is not an id of {of}")
    return int(text)


def parse_time(text: str, option: str) -> datetime:
    """Return a time in ISO 8601, in UTC unless it says otherwise.

    :raises CliError: it is not a time.
    """
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise CliError(f"{option} {clean(text)} is not a time such as 2026-11-29T12:00:00Z") from None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def parse_duration(text: str, option: str) -> timedelta:
    """Return a duration such as ``30m``.

    >>> parse_duration("90s", "--for")
    datetime.timedelta(seconds=90)

    :raises CliError: it is not a duration.
    """
    match = re.fullmatch(r"([0-9]{1,6})([smhd])", text.strip())
    if match is None:
        raise CliError(f"{option} {clean(text)} is not a duration such as 90s, 30m, 2h or 1d")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


# --- output ------------------------------------------------------------------------------------------------------


def clean(value: object) -> str:
    """Return a value as text that cannot control a terminal: escapes and other invisible characters are shown.

    >>> clean("a\\x1b[31m\\nb")
    'a\\\\x1b[31m\\\\nb'
    """
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:g}"
    return "".join(_visible(character) for character in str(value))


def _visible(character: str) -> str:
    # Controls, and characters that change the direction of the text or take no space.
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"):
        return character.encode("unicode_escape").decode()
    return character


def short_time(text: str | None) -> str:
    """Return a time of an entity, without the fraction of its second."""
    return "–" if text is None else re.sub(r"\.[0-9]+Z$", "Z", text)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Print a table: aligned if it goes to a terminal, otherwise with two spaces between the columns.

    ``empty`` is the sentence that is printed if there are no rows.
    """
    cells = [[clean(cell) for cell in row] for row in rows]
    if not cells:
        print_line(empty)
    elif sys.stdout.isatty():
        _print_rich(columns, cells)
    else:
        for line in table_lines(columns, cells):
            print_line(line)


def table_lines(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table whose cells are clean."""
    widths = [max(len(row[index]) for row in (columns, *rows)) for index in range(len(columns))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (columns, *rows)
    ]


def _print_rich(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console

    Console().print(rich_table(columns, rows))


def rich_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Any:
    """Return a table for a terminal. What users wrote is not markup."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(Text(name), overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def print_facts(facts: Mapping[str, object]) -> None:
    """Print names and values, one per line."""
    width = max(map(len, facts))
    for name, value in facts.items():
        print_line(f"{name:<{width}}  {clean(value)}")
