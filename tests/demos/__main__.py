"""Shows two peers behind NATs that move a file and talk while UDP is blocked and comes back.

`make demo-mesh` runs it. It needs root, for network namespaces; it leaves none behind. The exit
code is 0 only when not a byte was lost.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.support.mesh_lab import WAIT_S, Lab, Nat, PeerCommand, mesh_lab
from tests.support.mesh_traffic import (
    CHAT_PORT,
    WEB_PORT,
    Conversation,
    Download,
    downloading,
    talking,
    tcp_echo,
    web_site,
)
from tests.support.processes import wait_until

SENT_BYTES = 2_000_000
BYTES_PER_S = 150_000
DOWNLOAD_S = 55
"""How long a download lasts: the first is cut by the block, the second by the way back up."""
UDP_WAYS = ("h3", "quic")
TCP_WAYS = ("h2", "h1", "websocket", "https")


class Demo:
    """One run; says what happens, with the time since its beginning."""

    def __init__(self, lab: Lab, directory: Path, *, short: bool) -> None:
        self._lab = lab
        self._directory = directory
        self._short = short
        self._began_s = time.monotonic()

    def run(self) -> None:
        """Play it.

        Raises:
            AssertionError: something was lost.
            TimeoutError: something that should happen did not.
        """
        lab, directory = self._lab, self._directory
        size_bytes = BYTES_PER_S * DOWNLOAD_S
        with ExitStack() as stack:
            sha256 = stack.enter_context(
                web_site(lab.bob.machine, directory / "web", size_bytes=size_bytes)
            )
            stack.enter_context(tcp_echo(lab.bob.machine))
            inbox = directory / "inbox"
            bob = lab.listen(
                f"web=127.0.0.1:{WEB_PORT}", f"chat=127.0.0.1:{CHAT_PORT}", "--inbox", str(inbox)
            )
            self._tell(f"Bob, behind a NAT at {lab.bob.outside}, listens (by {bob.way})")
            alice = lab.forward(bob.told["peer_id"], ["127.0.0.1:0=web", "127.0.0.1:0=chat"])
            web, chat = (str(one["listen"]) for one in alice.told["forwards"])
            self._tell(
                f"Alice, behind a NAT at {lab.alice.outside}, has his ports (by {alice.way})"
            )
            conversation = stack.enter_context(talking(lab.alice.machine, chat))
            self._tell("she talks to him over TCP, a line after the other")
            self._lines(conversation)
            if not self._short:
                alice.wait_direct()
                self._tell("the two reach each other directly, past the relay")
                self._lines(conversation)
            fetch = partial(downloading, lab.alice.machine, web, directory)
            # The way down is found sooner than the way up.
            with fetch(bytes_per_s=3 * BYTES_PER_S // 2) as download:
                self._tell(f"she downloads {size_bytes:,} bytes by curl")
                self._lines(conversation)
                self._block(alice, conversation, download)
                self._check(download, sha256)
            with fetch(bytes_per_s=BYTES_PER_S) as download:
                self._tell("she downloads them again")
                self._lines(conversation)
                self._unblock(alice, conversation, download)
                self._check(download, sha256)
            self._send_a_file(bob, inbox)
            conversation.close()
            assert conversation.trouble is None, conversation.trouble
            self._tell(
                f"the conversation is whole: {conversation.line_count} lines, the longest wait "
                f"{conversation.longest_wait_s:.1f} s"
            )

    def _block(self, alice: PeerCommand, conversation: Conversation, download: Download) -> None:
        assert download.is_running, "the download was over too soon"
        self._lab.alice.block_udp()
        blocked_s = time.monotonic()
        self._tell(
            f"UDP is blocked at Alice's NAT, for every path, after {download.size_bytes:,} bytes"
        )
        way = alice.wait_for_way(*TCP_WAYS)
        if not self._short:
            alice.wait_direct(is_direct=False)
        self._lines(conversation)
        self._tell(f"all goes on by {way}, {time.monotonic() - blocked_s:.1f} s later")

    def _unblock(self, alice: PeerCommand, conversation: Conversation, download: Download) -> None:
        self._lab.alice.unblock_udp()
        self._tell("UDP is let through again")
        way = alice.wait_for_way(*UDP_WAYS)
        assert download.is_running, "the download was over before the session moved"
        self._tell(f"the session has moved back up to {way}, at {download.size_bytes:,} bytes")
        self._lines(conversation)

    def _check(self, download: Download, sha256: str) -> None:
        assert download.finish(2 * DOWNLOAD_S) == sha256, "the file is not the one that was sent"
        self._tell(f"the download is whole: SHA-256 {sha256[:16]}…")

    def _send_a_file(self, bob: PeerCommand, inbox: Path) -> None:
        photo = self._directory / "photo.bin"
        photo.write_bytes(os.urandom(SENT_BYTES))
        command = self._lab.peer_command("carol", "send", bob.told["peer_id"], str(photo))
        done = subprocess.run(
            [*self._lab.alice.machine.prefix, *command],
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        got = (inbox / photo.name).read_bytes()
        assert hashlib.sha256(got).digest() == hashlib.sha256(photo.read_bytes()).digest()
        self._tell(f"ghostctl peer send: {SENT_BYTES:,} bytes are in Bob's inbox")

    def _lines(self, conversation: Conversation) -> None:
        """Wait for a few more lines."""
        goal = conversation.line_count + 10
        wait_until(
            lambda: conversation.line_count >= goal or conversation.trouble,
            deadline_s=WAIT_S,
            what="ten more lines",
        )
        assert conversation.trouble is None, conversation.trouble

    def _tell(self, line: str) -> None:
        print(f"{time.monotonic() - self._began_s:6.1f} s  {line}", flush=True)


def main() -> int:
    """Run the demonstration; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="without the direct path")
    short: bool = parser.parse_args().short
    if os.geteuid() != 0:
        print("demo-mesh: needs root, for network namespaces: sudo make demo-mesh", file=sys.stderr)
        return 1
    nat = Nat.SYMMETRIC if short else Nat.PORT_RESTRICTED
    try:
        with (
            tempfile.TemporaryDirectory(prefix="demo-mesh-") as directory,
            mesh_lab(Path(directory), nats=(nat, nat)) as lab,
        ):
            Demo(lab, Path(directory), short=short).run()
    except pytest.skip.Exception as missing:
        print(f"demo-mesh: {missing.msg}", file=sys.stderr)
        return 1
    except (AssertionError, TimeoutError) as failure:
        print(f"demo-mesh: FAILED: {failure}", file=sys.stderr)
        return 1
    print("demo-mesh: nothing was lost")
    return 0


if __name__ == "__main__":
    sys.exit(main())
