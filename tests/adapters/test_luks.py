"""Keyslots on a real LUKS2 volume in a sparse file."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.adapters.command import attempt, run
from agent.adapters.luks import Cryptsetup, dump
from agent.errors import CommandError, StepError
from agent.keyslots import INSTALL, RECOVERY
from agent.machine import Keyslot
from agent.secret import Secret
from tests.adapters.daemons import luks_volume, sparse_copy

INSTALL_KEY, RECOVERY_KEY, WRONG = Secret.random(), Secret.random(), Secret.random()
LUKS = Cryptsetup(run, attempt)


@pytest.fixture(scope="module")
def two_keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    volume = luks_volume(tmp_path_factory.mktemp("luks") / "volume", INSTALL_KEY)
    LUKS.add(volume, existing=INSTALL_KEY, new=RECOVERY_KEY, slot=RECOVERY)
    return volume


@pytest.fixture
def volume(two_keys: Path, tmp_path: Path) -> Path:
    return sparse_copy(two_keys, tmp_path / "volume")


def test_an_added_key_opens_its_own_keyslot_and_no_other(volume: Path) -> None:
    assert LUKS.keyslots(volume) == (Keyslot(INSTALL, None), Keyslot(RECOVERY, None))
    assert LUKS.opens(volume, RECOVERY_KEY)
    assert LUKS.opens(volume, RECOVERY_KEY, RECOVERY)
    assert not LUKS.opens(volume, RECOVERY_KEY, INSTALL)
    assert not LUKS.opens(volume, WRONG)


def test_an_added_keyslot_has_the_cheap_pbkdf_that_fips_knows(volume: Path) -> None:
    kdf = dump(run, volume)["keyslots"][str(RECOVERY)]["kdf"]
    assert (kdf["type"], kdf["hash"], kdf["iterations"]) == ("pbkdf2", "sha256", 1000)


def test_nothing_opens_a_keyslot_that_is_empty(volume: Path) -> None:
    assert not LUKS.opens(volume, INSTALL_KEY, 7)


def test_what_is_no_volume_is_an_error_and_not_a_wrong_key(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="does not exist"):
        LUKS.opens(tmp_path / "missing", INSTALL_KEY)
    (tmp_path / "text").write_text("not a volume")
    with pytest.raises(CommandError, match="not a valid LUKS device"):
        LUKS.opens(tmp_path / "text", INSTALL_KEY, 7)


def test_a_taken_keyslot_is_not_overwritten(volume: Path) -> None:
    with pytest.raises(CommandError, match="luksAddKey"):
        LUKS.add(volume, existing=INSTALL_KEY, new=WRONG, slot=RECOVERY)
    assert LUKS.opens(volume, RECOVERY_KEY, RECOVERY)


def test_a_key_of_two_lines_is_refused_before_cryptsetup_would_misread_it(volume: Path) -> None:
    with pytest.raises(StepError, match="more than one line"):
        LUKS.add(volume, existing=INSTALL_KEY, new=Secret("one\ntwo"), slot=5)


def test_a_keyslot_is_destroyed_with_the_key_of_another_one(volume: Path) -> None:
    LUKS.kill(volume, INSTALL, other=RECOVERY_KEY)
    assert LUKS.keyslots(volume) == (Keyslot(RECOVERY, None),)
    assert not LUKS.opens(volume, INSTALL_KEY)
    assert LUKS.opens(volume, RECOVERY_KEY)


@pytest.mark.parametrize("key", [INSTALL_KEY, WRONG], ids=["its own key", "a wrong key"])
def test_a_keyslot_survives_when_nothing_proves_another_way_in(volume: Path, key: Secret) -> None:
    with pytest.raises(CommandError, match="No key available"):
        LUKS.kill(volume, INSTALL, other=key)
    assert LUKS.opens(volume, INSTALL_KEY, INSTALL)


def test_the_last_keyslot_survives_even_its_own_key(volume: Path) -> None:
    LUKS.kill(volume, INSTALL, other=RECOVERY_KEY)
    with pytest.raises(StepError, match="keyslot 1 is the last one"):
        LUKS.kill(volume, RECOVERY, other=RECOVERY_KEY)
    with pytest.raises(StepError, match="keyslot 0 is empty already"):
        LUKS.kill(volume, INSTALL, other=RECOVERY_KEY)
    assert LUKS.opens(volume, RECOVERY_KEY)
