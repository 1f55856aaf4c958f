"""The rig's control connection, against a peer that talks as QEMU does."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from qemu.errors import ConnectionLostError, RigError, WaitTimeoutError
from qemu.qmp import Qmp


class Peer:
    """The other end: answers as told, and says what it was asked."""

    def __init__(self) -> None:
        self.link, ours = socket.socketpair()
        self.lines = self.link.makefile("rb")
        self.qmp = Qmp(ours)

    def say(self, **message: Any) -> None:
        self.link.sendall(json.dumps(message).encode() + b"\r\n")

    def answer(self, *before: dict[str, Any], **result: Any) -> threading.Thread:
        """Take one command in the background, and answer it after some other messages."""

        def talk() -> None:
            asked = json.loads(self.lines.readline())
            for message in before:
                self.say(**message)
            self.say(id=asked["id"], **(result or {"return": asked}))

        thread = threading.Thread(target=talk)
        thread.start()
        return thread


@pytest.fixture
def peer() -> Iterator[Peer]:
    made = Peer()
    yield made
    made.qmp.close()
    made.lines.close()
    made.link.close()


def test_the_greeting_comes_before_the_first_command(peer: Peer) -> None:
    peer.say(QMP={"version": {}})
    talk = peer.answer()
    peer.qmp.negotiate(5)
    talk.join()


def test_events_between_command_and_answer_are_kept(peer: Peer) -> None:
    event = {"event": "DEVICE_DELETED", "data": {"device": "d1"}, "timestamp": {}}
    talk = peer.answer(event, **{"return": 7})
    assert peer.qmp.execute("device_del", {"id": "d1"}) == 7
    talk.join()
    assert peer.qmp.wait("DEVICE_DELETED", 5, device="d1").details == {"device": "d1"}
    with pytest.raises(WaitTimeoutError):
        peer.qmp.wait("DEVICE_DELETED", 0.1, device="d2")


def test_a_refused_command_gives_qemus_reason(peer: Peer) -> None:
    talk = peer.answer(error={"class": "GenericError", "desc": "Bus 'rp1' not found"})
    with pytest.raises(RigError, match="device_add: Bus 'rp1' not found"):
        peer.qmp.execute("device_add", {"driver": "nvme"})
    talk.join()


def test_an_answer_that_comes_too_late_is_not_taken_for_the_next_one(peer: Peer) -> None:
    with pytest.raises(WaitTimeoutError):
        peer.qmp.execute("slow", timeout=0.1)
    late = json.loads(peer.lines.readline())
    talk = peer.answer({"id": late["id"], "return": "late"}, **{"return": "right"})
    assert peer.qmp.execute("quick", timeout=5) == "right"
    talk.join()


def test_every_command_after_the_end_of_qemu_is_a_lost_connection(peer: Peer) -> None:
    peer.link.shutdown(socket.SHUT_RDWR)
    for _ in range(2):
        with pytest.raises(ConnectionLostError):
            peer.qmp.execute("quit", timeout=5)
    with pytest.raises(WaitTimeoutError, match="gone"):
        peer.qmp.wait("SHUTDOWN", 5)
