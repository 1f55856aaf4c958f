"""A software TPM in the states a real one is found in."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.adapters.command import run
from agent.adapters.tpm import TpmTools
from agent.errors import CommandError
from tests.adapters.daemons import SoftTpm, free_port, soft_tpm


@pytest.fixture
def tpm(tmp_path: Path) -> Iterator[SoftTpm]:
    with soft_tpm(tmp_path / "tpm") as tpm:
        yield tpm


def problems(tpm: SoftTpm, *pcrs: int) -> list[str]:
    found = list(TpmTools(run, tpm.tcti).problems(pcrs))
    assert {problem.where for problem in found} <= {"encryption.unlock"}
    return [problem.message for problem in found]


def test_a_sound_tpm_seals_and_unseals_and_keeps_nothing(tpm: SoftTpm) -> None:
    before = tpm.handles()
    assert problems(tpm, 7) == []
    assert tpm.handles() == before


def test_a_register_is_read_as_hexadecimal(tpm: SoftTpm) -> None:
    zero = TpmTools(run, tpm.tcti).pcr(0)
    seven = TpmTools(run, tpm.tcti).pcr(7)
    assert zero == "0" * 64
    assert len(seven) == 64
    assert int(seven, 16) > 0
    tpm.extend(7)
    assert TpmTools(run, tpm.tcti).pcr(7) != seven


def test_a_register_nobody_measured_into_is_refused_by_number(tpm: SoftTpm) -> None:
    (message,) = problems(tpm, 2, 3, 7)
    assert message.startswith("PCR 2, 3 of the sha256 bank was never extended")


def test_a_machine_without_a_tpm_is_told_apart_from_one_with_an_old_one(tmp_path: Path) -> None:
    device = tmp_path / "tpmrm0"
    (none,) = TpmTools(run, f"device:{device}").problems([7])
    assert none.message.startswith("this machine has no TPM 2.0: there is no ")
    (tmp_path / "tpm0").touch()
    (old,) = TpmTools(run, f"device:{device}").problems([7])
    assert old.message.startswith("this machine has a TPM 1.2 and no TPM 2.0")


def test_a_tpm_that_does_not_answer_is_a_problem_and_no_crash() -> None:
    tcti = f"swtpm:host=127.0.0.1,port={free_port(also_next=True)}"
    (problem,) = TpmTools(run, tcti).problems([7])
    assert problem.message.startswith("the TPM does not answer: ")
    with pytest.raises(CommandError):
        TpmTools(run, tcti).pcr(7)


def test_an_owner_password_is_refused_as_clevis_could_not_give_it(tpm: SoftTpm) -> None:
    tpm.tool("tpm2_changeauth", "-c", "owner", "secret")
    (message,) = problems(tpm, 7)
    assert message.startswith("the TPM's owner hierarchy has a password")


def test_a_tpm_near_its_lockout_is_refused_before_it_locks(tpm: SoftTpm, tmp_path: Path) -> None:
    sealed = seal_under_a_password(tpm, tmp_path)
    for _ in range(2):
        give_a_wrong_password(tpm, sealed)
    (near,) = problems(tpm, 7)
    assert near.startswith("the TPM is one failure from locking itself: 2 of 3; clear it with ")
    give_a_wrong_password(tpm, sealed)
    (locked,) = problems(tpm, 7)
    assert locked.startswith("the TPM is locked: 3 failures of 3 allowed; clear it with ")
    tpm.tool("tpm2_dictionarylockout", "--clear-lockout")
    assert problems(tpm, 7) == []


def seal_under_a_password(tpm: SoftTpm, directory: Path) -> str:
    """Make an object that is under dictionary-attack protection, as what Clevis seals is."""
    primary, public, private, context = (str(directory / name) for name in "abcd")
    (directory / "content").write_text("content")
    for command in (
        ("tpm2_createprimary", "-Q", "-c", primary),
        ("tpm2_create", "-Q", "-C", primary, "-p", "right", "-i", str(directory / "content"),
         "-u", public, "-r", private),
        ("tpm2_load", "-Q", "-C", primary, "-u", public, "-r", private, "-c", context),
    ):  # fmt: skip
        tpm.tool(*command)
        tpm.tool("tpm2_flushcontext", "--transient-object")
    return context


def give_a_wrong_password(tpm: SoftTpm, sealed: str) -> None:
    with pytest.raises(CommandError):
        tpm.tool("tpm2_unseal", "-c", sealed, "-p", "wrong")
    tpm.tool("tpm2_flushcontext", "--transient-object")
    tpm.tidy()


def test_a_tpm_without_a_sha256_bank_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "sha1"
    directory.mkdir()
    subprocess.run(
        ["swtpm_setup", "--tpm2", "--tpmstate", directory, "--pcr-banks", "sha1"],
        check=True,
        capture_output=True,
    )
    with soft_tpm(directory) as tpm:
        (message,) = problems(tpm, 7)
    assert message.startswith("the TPM has no sha256 bank of PCRs")
