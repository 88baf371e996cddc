"""Backup and restore: a backup is a consistent snapshot, restored completely or not at all, and no id is reused."""

from __future__ import annotations

import json
import stat
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.engine import Engine
from sqlalchemy.pool import NullPool

from models.database.backup import MANIFEST, BackupError, count_rows_to_replace, restore_backup, write_backup
from models.database.migrate import create_schema, current_revision, head_revision
from models.tables import METADATA
from models.types import JSON
from tasks.commands.comments import PostComment
from tests.handlers.acme import Acme, versions
from tests.harness import Harness


@pytest.fixture
def elsewhere(maintenance: Engine) -> Iterator[Engine]:
    """An empty database without tables."""
    with maintenance.connect() as connection:
        connection.exec_driver_sql("CREATE DATABASE elsewhere")
    engine = create_engine(maintenance.url.set(database="elsewhere"), poolclass=NullPool)
    yield engine
    with maintenance.connect() as connection:
        connection.exec_driver_sql("DROP DATABASE elsewhere WITH (FORCE)")


def ignore_progress(_table: str, _size: int) -> None:
    """Discard a progress report."""


def comment(text: str) -> PostComment:
    return PostComment.model_validate({"incident": "1", "comment": text, "mentions": ["user:12"]})


def all_rows(engine: Engine) -> dict[str, list[str]]:
    """Return every row of every table as text, by table."""
    with engine.connect() as connection:
        return {
            name: sorted(connection.exec_driver_sql(f"SELECT t::text FROM {name} t").scalars())
            for name in METADATA.tables
        }


def with_changed_member(backup: Path, *, member: str, by: Callable[[bytes], bytes]) -> Path:
    """Return a copy of the backup that is a valid archive with one member changed."""
    copy = backup.with_name("changed.backup")
    with zipfile.ZipFile(backup) as old, zipfile.ZipFile(copy, "w") as new:
        for name in old.namelist():
            new.writestr(name, by(old.read(name)) if name == member else old.read(name))
    return copy


def test_a_restore_brings_back_every_row(harness: Harness, acme: Acme, elsewhere: Engine, tmp_path: Path) -> None:
    harness.execute(comment("1\t2\\N\n žluťoučký 🦊 \\."), **acme.by("mem"))
    harness.accept(comment("still waiting"), **acme.by("ana"))
    before = all_rows(harness.engine)

    write_backup(harness.engine, tmp_path / "all.backup", on_progress=ignore_progress)
    restore_backup(elsewhere, tmp_path / "all.backup", on_progress=ignore_progress)

    assert all_rows(elsewhere) == before
    assert current_revision(elsewhere) == head_revision()


def test_a_command_waiting_at_backup_time_is_applied_after_the_restore(
    harness: Harness, acme: Acme, tmp_path: Path
) -> None:
    waiting = harness.accept(comment("waiting"), **acme.by("mem"))
    write_backup(harness.engine, tmp_path / "all.backup", on_progress=ignore_progress)
    harness.apply()
    harness.execute(comment("lost"), **acme.by("mem"))

    restore_backup(harness.engine, tmp_path / "all.backup", on_progress=ignore_progress)
    harness.apply()

    assert harness.ledger_row(waiting)["state"] == "applied"
    assert harness.row_counts()["incident_activities"] == 1
    assert versions(harness.engine, acme.organizations["acme"]) == {1: 2}


def test_ids_issued_after_the_backup_are_not_reused_after_a_restore(
    harness: Harness, acme: Acme, tmp_path: Path
) -> None:
    write_backup(harness.engine, tmp_path / "all.backup", on_progress=ignore_progress)
    lost = harness.accept(comment("lost"), **acme.by("mem"))
    harness.apply()
    lost_row = harness.ledger_row(lost)

    restore_backup(harness.engine, tmp_path / "all.backup", on_progress=ignore_progress)
    new = harness.accept(comment("new"), **acme.by("mem"))
    harness.apply()

    new_row = harness.ledger_row(new)
    assert new_row["seq"] > lost_row["seq"]
    assert int(new_row["outcome_body"]["id"]) > int(lost_row["outcome_body"]["id"])


def test_a_backup_is_a_consistent_snapshot(harness: Harness, acme: Acme, elsewhere: Engine, tmp_path: Path) -> None:
    before = all_rows(harness.engine)
    written: list[tuple[int, JSON]] = []

    def meanwhile(_table: str, _size: int) -> None:
        if not written:
            written.append(harness.execute(comment("too late"), **acme.by("mem")))

    write_backup(harness.engine, tmp_path / "all.backup", on_progress=meanwhile)
    restore_backup(elsewhere, tmp_path / "all.backup", on_progress=ignore_progress)

    assert written[0][0] == 201
    assert all_rows(elsewhere) == before


def test_a_backup_can_be_read_only_by_its_owner(harness: Harness, tmp_path: Path) -> None:
    write_backup(harness.engine, tmp_path / "all.backup", on_progress=ignore_progress)

    assert stat.S_IMODE((tmp_path / "all.backup").stat().st_mode) == 0o600


def test_an_interrupted_backup_keeps_the_previous_one(harness: Harness, acme: Acme, tmp_path: Path) -> None:
    write_backup(harness.engine, tmp_path / "all.backup", on_progress=ignore_progress)
    before = (tmp_path / "all.backup").read_bytes()

    def interrupt(_table: str, _size: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_backup(harness.engine, tmp_path / "all.backup", on_progress=interrupt)

    assert [path.name for path in tmp_path.iterdir()] == ["all.backup"]
    assert (tmp_path / "all.backup").read_bytes() == before


def test_a_file_that_is_not_a_backup_is_not_overwritten(harness: Harness, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")

    with pytest.raises(BackupError, match="choose another file"):
        write_backup(harness.engine, tmp_path / "thesis.txt", on_progress=ignore_progress)

    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_an_empty_database_is_not_backed_up(elsewhere: Engine, tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="nothing to back up"):
        write_backup(elsewhere, tmp_path / "all.backup", on_progress=ignore_progress)

    assert list(tmp_path.iterdir()) == []


def swapped(rows: bytes) -> bytes:
    return rows.replace(b"mem", b"men")


def with_half_a_row(rows: bytes) -> bytes:
    return rows[: len(rows) // 2]


@pytest.mark.parametrize("damage", [swapped, with_half_a_row])
def test_a_damaged_backup_changes_nothing(
    harness: Harness, acme: Acme, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    write_backup(harness.engine, tmp_path / "all.backup", on_progress=ignore_progress)
    harness.execute(comment("after it"), **acme.by("mem"))
    before = all_rows(harness.engine)
    damaged = with_changed_member(tmp_path / "all.backup", member="tables/users.copy", by=damage)

    with pytest.raises(BackupError, match="damaged in its table users"):
        restore_backup(harness.engine, damaged, on_progress=ignore_progress)

    assert all_rows(harness.engine) == before


def test_a_truncated_backup_changes_nothing(harness: Harness, acme: Acme, tmp_path: Path) -> None:
    write_backup(harness.engine, tmp_path / "all.backup", on_progress=ignore_progress)
    before = all_rows(harness.engine)
    whole = (tmp_path / "all.backup").read_bytes()
    (tmp_path / "all.backup").write_bytes(whole[: len(whole) // 2])

    with pytest.raises(BackupError, match="truncated"):
        restore_backup(harness.engine, tmp_path / "all.backup", on_progress=ignore_progress)

    assert all_rows(harness.engine) == before


def test_a_backup_from_a_newer_release_is_refused_and_the_error_names_that_release(
    harness: Harness, acme: Acme, tmp_path: Path
) -> None:
    write_backup(harness.engine, tmp_path / "all.backup", on_progress=ignore_progress)
    before = all_rows(harness.engine)

    def as_of_tomorrow(manifest: bytes) -> bytes:
        return json.dumps(json.loads(manifest) | {"revision": "9999", "tocsin": "9.0"}).encode()

    newer = with_changed_member(tmp_path / "all.backup", member=MANIFEST, by=as_of_tomorrow)

    with pytest.raises(BackupError, match=r"9999 of tocsin 9\.0"):
        restore_backup(harness.engine, newer, on_progress=ignore_progress)
    assert all_rows(harness.engine) == before


def test_a_database_from_a_newer_release_is_not_overwritten(harness: Harness, acme: Acme) -> None:
    with harness.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")

    with pytest.raises(BackupError, match="does not know"):
        count_rows_to_replace(harness.engine)


def test_a_backup_with_an_older_schema_is_restored_and_migrated(
    elsewhere: Engine, harness: Harness, tmp_path: Path
) -> None:
    with elsewhere.begin() as connection:
        create_schema(connection, "0001")
        connection.exec_driver_sql("INSERT INTO organizations (slug, name) VALUES ('acme', 'Acme')")
    write_backup(elsewhere, tmp_path / "old.backup", on_progress=ignore_progress)

    manifest = restore_backup(harness.engine, tmp_path / "old.backup", on_progress=ignore_progress)

    assert (manifest.revision, current_revision(harness.engine)) == ("0001", head_revision())
    assert len(all_rows(harness.engine)["organizations"]) == 1


def test_a_restore_keeps_every_constraint(harness: Harness, acme: Acme, tmp_path: Path) -> None:
    def references() -> list[Any]:
        with harness.engine.connect() as connection:
            return list(
                connection.exec_driver_sql(
                    "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid), convalidated"
                    " FROM pg_constraint WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2"
                )
            )

    before = references()
    write_backup(harness.engine, tmp_path / "all.backup", on_progress=ignore_progress)

    restore_backup(harness.engine, tmp_path / "all.backup", on_progress=ignore_progress)

    assert references() == before
