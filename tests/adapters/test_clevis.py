"""Bindings made by the real Clevis, with real Tang servers and a software TPM."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from agent.adapters.clevis import Clevis
from agent.adapters.command import attempt, run
from agent.adapters.luks import Cryptsetup
from agent.adapters.tang import TangServers
from agent.errors import CommandError, StepError
from agent.keyslots import INSTALL, METADATA_DEFAULT, RECOVERY, UNLOCK
from agent.machine import Advertisement, Keyslot
from agent.pin import header_need, header_room, sss_config, token_size
from agent.plan.unlock import parse_policy
from agent.secret import Secret
from tests.adapters.daemons import (
    SoftTpm,
    TangServer,
    luks_volume,
    soft_tpm,
    sparse_copy,
    tang_server,
)

KEY, RECOVERY_KEY = Secret.random(), Secret.random()
LUKS = Cryptsetup(run, attempt)


@dataclass(frozen=True)
class World:
    first: TangServer
    second: TangServer
    tpm: SoftTpm
    base: Path

    def advertisement(self, server: TangServer) -> Advertisement:
        return TangServers(run).advertisement(server.url, server.thumbprint)

    def config(self, words: str, servers: int, pcrs: tuple[int, ...] = ()) -> str:
        asked = (self.first, self.second)[:servers]
        return sss_config(parse_policy(words), [self.advertisement(each) for each in asked], pcrs)

    @property
    def clevis(self) -> Clevis:
        return Clevis(run, self.tpm.tcti)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("clevis")
    with tang_server(root / "a") as a, tang_server(root / "b") as b, soft_tpm(root / "tpm") as tpm:
        base = luks_volume(root / "volume", KEY)
        LUKS.add(base, existing=KEY, new=RECOVERY_KEY, slot=RECOVERY)
        yield World(a, b, tpm, base)


@pytest.fixture
def volume(world: World, tmp_path: Path) -> Path:
    world.tpm.tidy()
    return sparse_copy(world.base, tmp_path / "volume")


def bind(world: World, volume: Path, config: str) -> None:
    world.clevis.bind(volume, existing=KEY, slot=UNLOCK, config=config)


@pytest.mark.parametrize(
    ("words", "servers", "pcrs"),
    [
        ("tpm2", 0, (7,)),
        ("1 of tang", 2, ()),
        ("tpm2 and tang", 1, ()),
        ("tpm2 or tang", 1, (7,)),
        ("tpm2 and 1 of tang", 2, (7,)),
    ],
)
def test_a_binding_opens_the_volume_by_itself(
    world: World, volume: Path, words: str, servers: int, pcrs: tuple[int, ...]
) -> None:
    bind(world, volume, world.config(words, servers, pcrs))

    assert Keyslot(UNLOCK, "clevis") in LUKS.keyslots(volume)
    assert LUKS.opens(volume, world.clevis.unlock(volume, UNLOCK), UNLOCK)
    assert LUKS.opens(volume, RECOVERY_KEY, RECOVERY)

    answers = world.clevis.answers(volume, UNLOCK)
    expected = [each.url for each in (world.first, world.second)[:servers]]
    expected += ["tpm2"] if "tpm2" in words else []
    assert sorted(answer.pin for answer in answers) == sorted(expected)
    assert [answer.error for answer in answers] == [None] * len(answers)

    # The estimate of what it takes in the header is never too small, and nearly right.
    size = len(run("cryptsetup", "token", "export", "--token-id", str(UNLOCK), volume))
    asked = [world.advertisement(each) for each in (world.first, world.second)[:servers]]
    assert size <= token_size(parse_policy(words), asked) <= size * 1.1


def test_two_bindings_need_more_than_the_header_cryptsetup_makes_by_default(
    world: World, tmp_path: Path
) -> None:
    third = world.first.url.replace("127.0.0.1", "localhost")
    servers = [world.advertisement(world.first), world.advertisement(world.second)]
    servers.append(replace(servers[0], url=third))
    policy = parse_policy("2 of tang")
    assert header_room(METADATA_DEFAULT) < header_need(policy, servers, 2) < header_room()

    small = luks_volume(tmp_path / "small", KEY, METADATA_DEFAULT)
    config = sss_config(policy, servers)
    bind(world, small, config)
    with pytest.raises(CommandError, match="Error saving metadata"):
        world.clevis.bind(small, existing=KEY, slot=UNLOCK + 1, config=config)


def test_the_dead_half_of_an_or_is_seen_although_the_volume_opens(
    world: World, volume: Path, tmp_path: Path
) -> None:
    with tang_server(tmp_path / "mortal") as mortal:
        policy = parse_policy("tpm2 or tang")
        bind(world, volume, sss_config(policy, [world.advertisement(mortal)]))

    assert LUKS.opens(volume, world.clevis.unlock(volume, UNLOCK), UNLOCK)
    errors = {answer.pin: answer.error for answer in world.clevis.answers(volume, UNLOCK)}
    assert errors.pop("tpm2") is None
    assert "Error communicating with server" in str(errors.pop(mortal.url))


def test_a_binding_to_pcrs_stays_shut_after_they_changed(volume: Path, tmp_path: Path) -> None:
    with soft_tpm(tmp_path / "other") as tpm:
        clevis = Clevis(run, tpm.tcti)
        clevis.bind(
            volume, existing=KEY, slot=UNLOCK, config=sss_config(parse_policy("tpm2"), (), (7,))
        )
        tpm.extend(7)
        with pytest.raises(CommandError, match="not possible to decrypt"):
            clevis.unlock(volume, UNLOCK)
    assert LUKS.opens(volume, RECOVERY_KEY, RECOVERY)


def test_an_advertisement_of_another_server_is_refused_by_clevis_too(
    world: World, volume: Path
) -> None:
    mixed = Advertisement(
        world.first.url, world.first.thumbprint, world.advertisement(world.second).jws
    )
    with pytest.raises(CommandError, match="did not sign the advertisement") as caught:
        bind(world, volume, sss_config(parse_policy("tang"), [mixed]))
    assert len(str(caught.value)) < 500
    assert [keyslot.number for keyslot in LUKS.keyslots(volume)] == [INSTALL, RECOVERY]


def test_a_wrong_key_binds_nothing(world: World, volume: Path) -> None:
    config = world.config("tang", 1)
    with pytest.raises(CommandError, match="luks bind"):
        world.clevis.bind(volume, existing=Secret.random(), slot=UNLOCK, config=config)
    assert [keyslot.number for keyslot in LUKS.keyslots(volume)] == [INSTALL, RECOVERY]


def test_a_keyslot_without_a_token_has_nobody_to_ask(world: World, volume: Path) -> None:
    with pytest.raises(StepError, match="keyslot 1 has no Clevis token"):
        world.clevis.answers(volume, RECOVERY)
