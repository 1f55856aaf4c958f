"""The rig's parts against the real programs: qemu-img, swtpm, tangd, sh, the accelerator."""

from __future__ import annotations

import os
import pty
import socket
import subprocess
import threading
import time
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest

from qemu import accel, disk, firmware
from qemu.console import Console
from qemu.disk import Extent, GiB, KiB, MiB
from qemu.errors import GuestCommandError, RigError, WaitTimeoutError
from qemu.hardware import Chassis, Disk, Hardware
from qemu.program import run
from qemu.server import DeployServer
from qemu.shell import Shell
from qemu.tang import Tang
from qemu.tpm import Tpm
from tests.adapters.daemons import soft_tpm


def test_a_blank_disk_is_unwritten_and_equal_to_every_blank_disk_of_its_size(
    tmp_path: Path,
) -> None:
    one, two = disk.blank(tmp_path / "a", 4 * GiB), disk.blank(tmp_path / "b", 4 * GiB)
    assert disk.written(one) == ()
    assert disk.size(one) == 4 * GiB
    assert disk.content_digest(one) == disk.content_digest(two)
    assert disk.content_digest(disk.blank(tmp_path / "c", 5 * GiB)) != disk.content_digest(one)


def test_one_byte_anywhere_changes_the_digest(tmp_path: Path) -> None:
    image = disk.blank(tmp_path / "a", 4 * GiB)
    blank = disk.content_digest(image)
    disk.write_at(image, 3 * GiB + 70_001, b"x")
    assert disk.content_digest(image) != blank
    assert disk.read_at(image, 3 * GiB + 69_632, 512)[369:371] == b"x\0"


def test_written_zeroes_leave_the_content_alone_but_are_seen_as_written(tmp_path: Path) -> None:
    image = disk.blank(tmp_path / "a", GiB)
    blank = disk.content_digest(image)
    disk.write_at(image, MiB, bytes(4096))
    assert disk.content_digest(image) == blank
    assert disk.written(image) == (Extent(MiB, 64 * KiB),)


def test_a_branch_has_the_content_of_its_base_and_keeps_its_changes(tmp_path: Path) -> None:
    base = disk.blank(tmp_path / "base" / "d0", GiB)
    disk.write_at(base, 0, b"foreign" * 100)
    before = disk.content_digest(base)
    image = disk.branch(tmp_path / "case" / "d0", base)
    assert disk.content_digest(image) == before
    assert disk.written(image) == ()
    disk.write_at(image, 0, b"f")  # the byte that is there already
    assert disk.content_digest(image) == before
    assert disk.written(image) == (Extent(0, 64 * KiB),)
    (tmp_path / "moved").mkdir()
    (tmp_path / "base").rename(tmp_path / "moved" / "base")
    (tmp_path / "case").rename(tmp_path / "moved" / "case")
    assert disk.content_digest(tmp_path / "moved" / "case" / "d0") == before


def test_a_digest_does_not_depend_on_how_the_image_is_laid_out(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    with raw.open("wb") as file:
        file.truncate(64 * MiB)
        file.seek(5 * MiB + 123)
        file.write(os.urandom(200_000))
    image = disk.from_raw(tmp_path / "a", raw)
    sparse = disk.blank(tmp_path / "b", 64 * MiB)
    disk.write_at(sparse, 5 * MiB - 4096, raw.read_bytes()[5 * MiB - 4096 : 6 * MiB])
    assert disk.content_digest(image) == disk.content_digest(sparse)


def test_a_machine_that_has_branches_is_not_switched_on_any_more(tmp_path: Path) -> None:
    chassis = Chassis(disks=(Disk("d0", size=GiB, serial="S1"),))
    base = Hardware.create(tmp_path / "base", chassis)
    disk.write_at(base.disk("d0"), 0, b"installed")
    copy = base.branch(tmp_path / "copy")
    other = base.branch(tmp_path / "other", new_tpm=True)
    with pytest.raises(RigError, match="has branches"):
        base.machine("base")
    assert copy.digests() == base.digests()
    assert copy.written() == {"d0": ()}
    assert Hardware.open(tmp_path / "copy").chassis == chassis
    assert copy.machine("copy", without=["d0"]).drives == ()
    states = [each.directory / "tpm" / "tpm2-00.permall" for each in (base, copy, other)]
    assert states[0].read_bytes() == states[1].read_bytes() != states[2].read_bytes()


def test_a_tpm_keeps_its_state_and_its_lockout_can_be_reset(tmp_path: Path) -> None:
    tpm = Tpm.create(tmp_path / "tpm")
    assert tpm.lockout_counter() == 0
    tpm.reset_lockout()
    assert tpm.copy(tmp_path / "copy").lockout_counter() == 0


def test_a_tpm_that_was_cut_off_after_an_unsealing_counts_it_until_it_is_reset(
    tmp_path: Path,
) -> None:
    Tpm.create(tmp_path)
    with soft_tpm(tmp_path) as tpm:
        environment = f"TPM2TOOLS_TCTI={tpm.tcti}"
        config = '{"pcr_bank":"sha256","pcr_ids":"7"}'
        sealed = run("env", environment, "clevis", "encrypt", "tpm2", config, content=b"key")
        assert run("env", environment, "clevis", "decrypt", content=sealed) == b"key"
    assert Tpm(tmp_path).lockout_counter() == 1
    Tpm(tmp_path).reset_lockout()
    assert Tpm(tmp_path).lockout_counter() == 0


def test_a_tang_server_that_went_down_comes_back_where_its_clients_know_it(tmp_path: Path) -> None:
    with Tang(tmp_path / "tang") as tang:
        url, pinned = tang.url, tang.thumbprint()
        assert run("jose", "jwk", "thp", "-a", "S256", "-i", _signing_key(tang)).decode() == pinned
        tang.stop()
        with pytest.raises(urllib.error.URLError, match="refused"):
            tang.advertisement()
        tang.start()
        assert (tang.url, tang.thumbprint()) == (url, pinned)
    with Tang(tmp_path / "tang") as again:
        assert (again.url, again.thumbprint()) == (url, pinned)


def test_rotated_keys_are_advertised_and_the_old_ones_still_answer(tmp_path: Path) -> None:
    with Tang(tmp_path / "tang") as tang:
        pinned = tang.thumbprint()
        tang.rotate()
        assert tang.thumbprint() != pinned
        assert _get(tang, f"/adv/{pinned}").startswith("HTTP/1.1 200")


def test_recoveries_are_counted_and_advertisements_are_not(tmp_path: Path) -> None:
    with Tang(tmp_path / "tang") as tang:
        config = f'{{"url":"http://127.0.0.1:{tang.port}","thp":"{tang.thumbprint()}"}}'
        sealed = run("clevis", "encrypt", "tang", config, content=b"key")
        assert tang.recoveries() == 0
        assert run("clevis", "decrypt", content=sealed) == b"key"
        assert tang.recoveries() == 1


def test_the_deploy_server_says_where_it_listens_and_keeps_its_port(tmp_path: Path) -> None:
    (tmp_path / "plans").mkdir()
    server = DeployServer(tmp_path)
    with server:
        port = server.port
        assert _answers(port)
    assert not _answers(port)
    with server:
        assert server.port == port


def test_a_deploy_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(RigError, match=r"(?s)did not start: .*nowhere"):
        DeployServer(tmp_path / "nowhere").start()


def test_the_probe_of_the_accelerator_runs_a_guest() -> None:
    assert accel.runs(accel.TCG)
    assert not accel.runs(("-accel", "none-such"))
    assert accel.options() in (accel.TCG, accel.KVM)


@pytest.mark.parametrize("secure_boot", [False, True])
def test_a_new_variable_store_has_the_templates_content(tmp_path: Path, secure_boot: bool) -> None:
    found = firmware.find(secure_boot=secure_boot, microsoft_keys=secure_boot)
    store = found.new_variables(tmp_path / "variables.qcow2")
    run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", store, found.template)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """A root shell as on a guest's second serial line: sh on a terminal."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        ["setsid", "--ctty", "/bin/sh", "-i"], stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)
    guest, ours = socket.socketpair()
    threads = [
        threading.Thread(target=_pump, args=(master, guest.fileno())),
        threading.Thread(target=_pump, args=(guest.fileno(), master)),
    ]
    for thread in threads:
        thread.start()
    console = Console(ours, tmp_path / "log", time.monotonic(), "shell")
    yield Shell(console)
    process.kill()
    process.wait()
    guest.shutdown(socket.SHUT_RDWR)
    console.close()
    for thread in threads:
        thread.join(5)
    guest.close()
    os.close(master)


def test_a_command_in_the_shell_gives_its_status_and_exactly_its_output(shell: Shell) -> None:
    done = shell.run("echo one; echo two >&2; printf 'no end'; exit 3", check=False)
    assert (done.status, done.text) == (3, "one\ntwo\nno end")
    assert shell.run("printf 'a\\n\\n'").text == "a\n\n"
    assert shell.run(":").text == ""
    assert len(shell.run("seq 5000").text.splitlines()) == 5000


def test_a_command_that_fails_in_the_shell_says_what_it_printed(shell: Shell) -> None:
    with pytest.raises(GuestCommandError, match=r"status 2: .*No such"):
        shell.run("ls /no/such/file")


def test_a_command_that_hangs_is_interrupted_and_the_shell_goes_on(shell: Shell) -> None:
    with pytest.raises(WaitTimeoutError, match="sleep 60"):
        shell.run("sleep 60", timeout=0.5)
    assert shell.run("echo still here").text == "still here\n"


def test_a_line_that_a_terminal_would_cut_is_refused(shell: Shell) -> None:
    with pytest.raises(ValueError, match="one line of at most"):
        shell.run("echo " + "x" * 5000)


def _pump(source: int, target: int) -> None:
    try:
        while piece := os.read(source, 4096):
            os.write(target, piece)
    except OSError:
        return


def _signing_key(tang: Tang) -> Path:
    return tang.directory / "keys" / f"{tang.thumbprint()}.jwk"


def _get(tang: Tang, path: str) -> str:
    with socket.create_connection(("127.0.0.1", tang.port)) as link:
        link.sendall(f"GET {path} HTTP/1.1\r\nConnection: close\r\n\r\n".encode())
        return link.recv(100).decode()


def _answers(port: int) -> bool:
    with socket.socket() as link:
        return link.connect_ex(("127.0.0.1", port)) == 0
