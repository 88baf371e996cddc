"""`tocsin directory`: import and export organizations and their people as one document."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from models.directory.example import EXAMPLE
from models.directory.importer import (
    DirectoryError,
    ImportSummary,
    export_directory,
    import_directory,
    lacking_feature,
    read_document,
)
from models.enums import Feature
from workers.cli.common import DataOption, JsonOption, print_json, print_line
from workers.cli.database import transaction
from workers.cli.errors import CliError

directory = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@directory.callback()
def about() -> None:
    """Import and export organizations, people, projects, teams, members and tokens."""


@directory.command("import")
def import_(
    file: Annotated[str | None, typer.Argument(metavar="FILE", help="The document; - for standard input.")] = None,
    *,
    example: Annotated[bool, typer.Option("--example", help="Print a document that can be imported.")] = False,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create or update everything that FILE lists, and change nothing else. If anything fails, nothing is changed."""
    if example:
        print_json(EXAMPLE)
        return
    if file is None:
        raise CliError("no document is given: name its file, or see what it looks like with --example")
    try:
        document = read_document(_content(file))
        with transaction(data) as connection:
            summary = import_directory(connection, document)
            without_incidents = lacking_feature(connection, document, Feature.INCIDENTS)
    except DirectoryError as error:
        raise CliError("nothing was imported; correct these places:\n" + "\n".join(error.errors)) from None
    if as_json:
        print_json(summary)
    else:
        _print_summary(summary)
    for slug in without_incidents:
        _print_hint(slug)


@directory.command("export")
def export(
    *,
    data: DataOption = None,
    as_json: JsonOption = False,  # noqa: ARG001 - the document is JSON either way
) -> None:
    """Print the directory as a document that can be imported elsewhere. It contains no tokens."""
    with transaction(data) as connection:
        document = export_directory(connection)
    print_json(document)


def _content(file: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise CliError(f"{file} cannot be read: {error.strerror}; choose a file with a directory document") from None


def _print_hint(slug: str) -> None:
    # Not part of the output, which programs read.
    sys.stderr.write(
        f"{slug} does not have the feature {Feature.INCIDENTS}: its incidents and alert rules answer 404;"
        " add the feature to the document (docs/directory.md)\n"
    )


def _print_summary(summary: ImportSummary) -> None:
    for section, counts in summary.items():
        print_line(f"{section}: " + ", ".join(f"{count} {outcome}" for outcome, count in counts.items()))
