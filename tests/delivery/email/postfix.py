"""A private Postfix on loopback that delivers all mail for ``example.test`` to folders.

It uses the installed programs, but its own configuration, queue and port, so that a Postfix that runs on the machine is
not touched. Postfix starts only as root.
"""

from __future__ import annotations

import os
import pwd
import smtplib
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.delivery.email.readers import require
from tests.rabbitmq import free_ports
from tests.waiting import eventually
from workers.settings import SmtpServer
from workers.stack.managed_process import ManagedProcess

_MASTER = """
127.0.0.1:{port} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
tlsmgr unix - - n 1000? 1 tlsmgr
postlog unix-dgram n - n - 1 postlogd
"""

_MAIN = """
compatibility_level = 3.6
queue_directory = {directory}/queue
data_directory = {directory}/data
maillog_file = {directory}/log/mail.log
maillog_file_prefixes = {directory}
myhostname = mail.example.test
mydestination =
alias_maps =
alias_database =
local_recipient_maps =
local_transport = error:no local mail
mynetworks = 127.0.0.0/8
inet_interfaces = loopback-only
inet_protocols = ipv4
virtual_mailbox_domains = example.test, xn--bcher-kva.example
virtual_mailbox_base = {directory}/mail
virtual_mailbox_maps = inline:{{ ana@example.test=ana/, ben@example.test=ben/, j@xn--bcher-kva.example=ana/ }}
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
virtual_minimum_uid = 1
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_recipient_restrictions = reject_unauth_destination
smtpd_client_connection_rate_limit = 0
message_size_limit = 200000
smtputf8_enable = yes
smtpd_tls_security_level = may
smtpd_tls_chain_files = {directory}/tls.pem
"""


class Postfix(ManagedProcess):
    """Postfix as a child process; it writes only to its directory."""

    def __init__(self, directory: Path, certificate: bytes) -> None:
        self.directory = directory
        [self.port] = free_ports(1)
        owner = pwd.getpwnam("postfix")
        for name in ("queue", "data", "mail", "log", "etc"):
            (directory / name).mkdir()
        for name in ("data", "mail"):
            os.chown(directory / name, owner.pw_uid, owner.pw_gid)
        (directory / "tls.pem").write_bytes(certificate)
        (directory / "tls.pem").chmod(0o600)
        (directory / "etc" / "master.cf").write_text(_MASTER.format(port=self.port))
        (directory / "etc" / "main.cf").write_text(
            _MAIN.format(directory=directory, uid=owner.pw_uid, gid=owner.pw_gid)
        )
        environment = {"PATH": os.environ["PATH"] + ":/usr/sbin:/sbin", "LC_ALL": "C.UTF-8"}
        configuration = str(directory / "etc")
        # Creates the folders of the queue.
        subprocess.run(["/usr/sbin/postfix", "-c", configuration, "check"], env=environment, check=True)
        super().__init__(
            "postfix",
            # Not "postfix start-fg", whose shell may end before the server does.
            ["/usr/lib/postfix/sbin/master", "-c", configuration, "-d"],
            log=directory / "postfix.log",
            environment=environment,
        )

    @property
    def server(self) -> SmtpServer:
        """The server's address."""
        return SmtpServer("127.0.0.1", self.port, False, None, None)

    def is_ready(self) -> bool:
        """Return whether the server greets its clients."""
        try:
            with smtplib.SMTP("127.0.0.1", self.port, timeout=5):
                return True
        except (OSError, smtplib.SMTPException):
            return False

    def maildir(self, user: str) -> Path:
        """Return the folder with a user's mails."""
        return self.directory / "mail" / user

    def wait_for_mails(self, user: str, count: int) -> list[bytes]:
        """Return the user's mails as soon as there are so many, oldest first."""
        folder = self.maildir(user) / "new"
        eventually(lambda: folder.is_dir() and len(list(folder.iterdir())) >= count)
        return [path.read_bytes() for path in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)]


@contextmanager
def running_postfix(certificate: bytes) -> Iterator[Postfix]:
    """Run a Postfix for the duration of the block, with a certificate and its key in PEM."""
    require(["/usr/sbin/postconf", "-d", "mail_version"], "postfix")
    if os.geteuid() != 0:
        pytest.skip("Postfix starts only as root")
    # Not pytest's folder, which only its owner may enter: Postfix changes to its own account.
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="tocsin-postfix-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        postfix = Postfix(directory, certificate)
        postfix.start()
        try:
            postfix.wait_ready()
            yield postfix
        finally:
            postfix.stop()
