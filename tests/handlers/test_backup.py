"""A backup is the database at one moment; restoring it is all or nothing, and gives no id out twice."""

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
from tasks.commands.comments import PostComment
from tests.handlers.acme import Acme, versions
from tests.handlers.conftest import Harness


@pytest.fixture
def elsewhere(maintenance: Engine) -> Iterator[Engine]:
    """A database with nothing in it, not even tables."""
    with maintenance.connect() as connection:
        connection.exec_driver_sql("CREATE DATABASE elsewhere")
    engine = create_engine(maintenance.url.set(database="elsewhere"), poolclass=NullPool)
    yield engine
    with maintenance.connect() as connection:
        connection.exec_driver_sql("DROP DATABASE elsewhere WITH (FORCE)")


def quietly(_table: str, _size: int) -> None:
    """Nobody listens."""


def comment(text: str) -> PostComment:
    return PostComment.model_validate({"incident": "1", "comment": text, "mentions": ["user:12"]})


def contents(engine: Engine) -> dict[str, list[str]]:
    """Every row of every table."""
    with engine.connect() as connection:
        return {
            name: sorted(connection.exec_driver_sql(f"SELECT t::text FROM {name} t").scalars())
            for name in METADATA.tables
        }


def changed(backup: Path, *, member: str, by: Callable[[bytes], bytes]) -> Path:
    """The same backup with one member changed, its archive in good order."""
    copy = backup.with_name("changed.backup")
    with zipfile.ZipFile(backup) as old, zipfile.ZipFile(copy, "w") as new:
        for name in old.namelist():
            new.writestr(name, by(old.read(name)) if name == member else old.read(name))
    return copy


def test_what_was_backed_up_is_there_again_row_by_row(
    house: Harness, acme: Acme, elsewhere: Engine, tmp_path: Path
) -> None:
    house.execute(comment("1\t2\\N\n žluťoučký 🦊 \\."), **acme.by("mem"))
    house.accept(comment("still waiting"), **acme.by("ana"))
    before = contents(house.engine)

    write_backup(house.engine, tmp_path / "all.backup", on_progress=quietly)
    restore_backup(elsewhere, tmp_path / "all.backup", on_progress=quietly)

    assert contents(elsewhere) == before
    assert current_revision(elsewhere) == head_revision()


def test_what_waited_when_it_was_backed_up_is_applied_once_it_is_restored(
    house: Harness, acme: Acme, tmp_path: Path
) -> None:
    waiting = house.accept(comment("waiting"), **acme.by("mem"))
    write_backup(house.engine, tmp_path / "all.backup", on_progress=quietly)
    house.apply()
    house.execute(comment("lost"), **acme.by("mem"))

    restore_backup(house.engine, tmp_path / "all.backup", on_progress=quietly)
    house.apply()

    assert house.ledger_row(waiting)["state"] == "applied"
    assert house.row_counts()["incident_activities"] == 1
    assert versions(house.engine, acme.organizations["acme"]) == {1: 2}


def test_an_id_that_was_given_out_after_the_backup_is_never_given_out_again(
    house: Harness, acme: Acme, tmp_path: Path
) -> None:
    write_backup(house.engine, tmp_path / "all.backup", on_progress=quietly)
    lost = house.accept(comment("lost"), **acme.by("mem"))
    _, lost_activity = (house.apply(), house.ledger_row(lost)["outcome_body"])
    lost_seq = house.ledger_row(lost)["seq"]

    restore_backup(house.engine, tmp_path / "all.backup", on_progress=quietly)
    new = house.accept(comment("new"), **acme.by("mem"))
    house.apply()

    assert house.ledger_row(new)["seq"] > lost_seq
    assert int(house.ledger_row(new)["outcome_body"]["id"]) > int(lost_activity["id"])


def test_a_backup_is_one_moment_however_long_it_takes(
    house: Harness, acme: Acme, elsewhere: Engine, tmp_path: Path
) -> None:
    before = contents(house.engine)
    written = []

    def meanwhile(_table: str, _size: int) -> None:
        if not written:
            written.append(house.execute(comment("too late"), **acme.by("mem")))

    write_backup(house.engine, tmp_path / "all.backup", on_progress=meanwhile)
    restore_backup(elsewhere, tmp_path / "all.backup", on_progress=quietly)

    assert written[0][0] == 201
    assert contents(elsewhere) == before


def test_a_backup_is_private(house: Harness, tmp_path: Path) -> None:
    write_backup(house.engine, tmp_path / "all.backup", on_progress=quietly)

    assert stat.S_IMODE((tmp_path / "all.backup").stat().st_mode) == 0o600


def test_a_backup_that_breaks_off_leaves_the_one_before_and_nothing_else(
    house: Harness, acme: Acme, tmp_path: Path
) -> None:
    write_backup(house.engine, tmp_path / "all.backup", on_progress=quietly)
    before = (tmp_path / "all.backup").read_bytes()

    def fall_over(_table: str, _size: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_backup(house.engine, tmp_path / "all.backup", on_progress=fall_over)

    assert [path.name for path in tmp_path.iterdir()] == ["all.backup"]
    assert (tmp_path / "all.backup").read_bytes() == before


def test_a_file_that_is_no_backup_is_not_written_over(house: Harness, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")

    with pytest.raises(BackupError, match="choose another file"):
        write_backup(house.engine, tmp_path / "thesis.txt", on_progress=quietly)

    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_an_empty_database_is_no_backup(elsewhere: Engine, tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="nothing to back up"):
        write_backup(elsewhere, tmp_path / "all.backup", on_progress=quietly)

    assert list(tmp_path.iterdir()) == []


def swapped(rows: bytes) -> bytes:
    return rows.replace(b"mem", b"men")


def with_half_a_row(rows: bytes) -> bytes:
    return rows[: len(rows) // 2]


@pytest.mark.parametrize("damage", [swapped, with_half_a_row])
def test_a_damaged_backup_changes_nothing(
    house: Harness, acme: Acme, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    write_backup(house.engine, tmp_path / "all.backup", on_progress=quietly)
    house.execute(comment("after it"), **acme.by("mem"))
    before = contents(house.engine)
    damaged = changed(tmp_path / "all.backup", member="tables/users.copy", by=damage)

    with pytest.raises(BackupError, match="damaged in its table users"):
        restore_backup(house.engine, damaged, on_progress=quietly)

    assert contents(house.engine) == before


def test_a_backup_that_was_cut_short_changes_nothing(house: Harness, acme: Acme, tmp_path: Path) -> None:
    write_backup(house.engine, tmp_path / "all.backup", on_progress=quietly)
    before = contents(house.engine)
    whole = (tmp_path / "all.backup").read_bytes()
    (tmp_path / "all.backup").write_bytes(whole[: len(whole) // 2])

    with pytest.raises(BackupError, match="truncated"):
        restore_backup(house.engine, tmp_path / "all.backup", on_progress=quietly)

    assert contents(house.engine) == before


def test_a_backup_of_a_newer_release_is_refused_with_its_name(house: Harness, acme: Acme, tmp_path: Path) -> None:
    write_backup(house.engine, tmp_path / "all.backup", on_progress=quietly)
    before = contents(house.engine)

    def as_of_tomorrow(manifest: bytes) -> bytes:
        return json.dumps(json.loads(manifest) | {"revision": "9999", "tocsin": "9.0"}).encode()

    newer = changed(tmp_path / "all.backup", member=MANIFEST, by=as_of_tomorrow)

    with pytest.raises(BackupError, match=r"9999 of tocsin 9\.0"):
        restore_backup(house.engine, newer, on_progress=quietly)
    assert contents(house.engine) == before


def test_a_database_of_a_newer_release_is_not_restored_over(house: Harness, acme: Acme) -> None:
    with house.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")

    with pytest.raises(BackupError, match="does not know"):
        count_rows_to_replace(house.engine)


def test_a_backup_of_an_older_schema_is_restored_and_then_brought_to_head(
    elsewhere: Engine, house: Harness, tmp_path: Path
) -> None:
    with elsewhere.begin() as connection:
        create_schema(connection, "0001")
        connection.exec_driver_sql("INSERT INTO organizations (slug, name) VALUES ('acme', 'Acme')")
    write_backup(elsewhere, tmp_path / "old.backup", on_progress=quietly)

    manifest = restore_backup(house.engine, tmp_path / "old.backup", on_progress=quietly)

    assert (manifest.revision, current_revision(house.engine)) == ("0001", head_revision())
    assert len(contents(house.engine)["organizations"]) == 1


def test_every_reference_is_as_it_was_after_a_restore(house: Harness, acme: Acme, tmp_path: Path) -> None:
    def references() -> list[Any]:
        with house.engine.connect() as connection:
            return list(
                connection.exec_driver_sql(
                    "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid), convalidated"
                    " FROM pg_constraint WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2"
                )
            )

    before = references()
    write_backup(house.engine, tmp_path / "all.backup", on_progress=quietly)

    restore_backup(house.engine, tmp_path / "all.backup", on_progress=quietly)

    assert references() == before
