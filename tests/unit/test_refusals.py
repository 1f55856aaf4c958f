"""Sixty wrong orders and more: what each is told, with which status, and that nothing was written.

Whole runs over the fakes, which note every write. The cases that need a real machine are in
tests/machine/test_refusals.py, where the disks are hashed before and after.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.errors import MachineError, PlanError
from agent.find import Found
from agent.inventory.model import Content, Disk, Firmware, Inventory
from agent.layout.extents import GIB, MIB
from agent.payload.contents import Need
from agent.payload.sign import SigningKey
from agent.policy import Policy
from agent.resolve import Order
from agent.session import run
from agent.trust import Trust, judge
from tests.unit.fakes import DISKS, SERVER, TANG, FakeHost, order
from tests.unit.fakes_keys import FakeTang, FakeTpm, advertisement
from tests.unit.plan import plans

PLAN, MACHINE = 3, 4
KEY, STRANGER = SigningKey(Ed25519PrivateKey.generate()), SigningKey(Ed25519PrivateKey.generate())
HTTP, HTTPS = "http://10.0.0.1/plan.yaml", "https://deploy.example.com/plan.yaml"
Spoil = Callable[[FakeHost], None]


class Guarded(FakeHost):
    """A host that judges plans as the live system does."""

    policy = Policy()

    def judge(self, found: Found) -> Trust:
        return judge(found, self.policy, (KEY.public,))


@dataclass(frozen=True)
class Case:
    """One wrong order: `says` are the words that the message must have, value and place."""

    name: str
    status: int
    says: tuple[str, ...]
    plan: bytes = field(default_factory=order)
    spoil: Spoil = field(default=lambda host: None)
    found: Callable[[bytes], Found] = field(default=lambda plan: Found("a file", plan))


def planned(name: str, *says: str, unlock: str | None = "tpm2 and tang", **changes: Any) -> Case:
    return Case(name, PLAN, says, order(unlock, **changes))


def written(name: str, text: bytes, *says: str) -> Case:
    return Case(name, PLAN, says, text)


def met(name: str, spoil: Spoil, *says: str, plan: bytes | None = None) -> Case:
    return Case(name, MACHINE, says, order() if plan is None else plan, spoil)


def came(
    name: str, found: Callable[[bytes], Found], *says: str, policy: Policy | None = None
) -> Case:
    def spoil(host: FakeHost) -> None:
        assert isinstance(host, Guarded)
        host.policy = policy or Policy()

    return Case(name, MACHINE, says, order(), spoil, found)


def edited(old: bytes, new: bytes) -> bytes:
    text = order()
    assert old in text
    return text.replace(old, new)


def inventory(**facts: Any) -> Spoil:
    def spoil(host: FakeHost) -> None:
        host.found = SERVER.model_copy(update=facts)

    return spoil


def disks(first: dict[str, Any] | None = None, second: dict[str, Any] | None = None) -> Spoil:
    """Change what the machine's two disks are."""

    def spoil(host: FakeHost) -> None:
        changed = (
            DISKS[0].model_copy(update=first or {}),
            DISKS[1].model_copy(update=second or {}),
        )
        host.found = SERVER.model_copy(update={"disks": changed})
        host.storage.disks = {Path(d.path): (d.serial, d.wwn, d.size) for d in changed}

    return spoil


def only(*present: Disk) -> Spoil:
    return inventory(disks=present)


def image(**facts: Any) -> Spoil:
    def spoil(host: FakeHost) -> None:
        host.images.manifest = host.images.manifest.model_copy(update=facts)

    return spoil


def tree(change: Callable[[Any], dict[str, Any]]) -> Spoil:
    """Change what the image's tree holds."""

    def spoil(host: FakeHost) -> None:
        section = host.images.manifest.tree
        assert section is not None
        changed = section.model_copy(update=change(section))
        host.images.manifest = host.images.manifest.model_copy(update={"tree": changed})

    return spoil


def without(*programs: str) -> Spoil:
    return tree(
        lambda section: {
            "programs": {k: v for k, v in section.programs.items() if k not in programs}
        }
    )


def needs(mount: str, **need: int) -> Spoil:
    return tree(
        lambda section: {
            "directories": {**section.directories, mount: Need(**{"bytes": 0, "inodes": 0, **need})}
        }
    )


def setting(name: str, value: Any) -> Spoil:
    """Set an attribute, of the host or below it: `images.wrong`."""

    def spoil(host: FakeHost) -> None:
        target: Any = host
        *path, last = name.split(".")
        for step in path:
            target = getattr(target, step)
        setattr(target, last, value)

    return spoil


def content(**facts: Any) -> Content:
    return Content.model_validate(
        {"device": "/dev/vda2", "kind": "xfs", "size": GIB, "label": "precious", **facts}
    )


def small(**changes: Any) -> bytes:
    return plans.text_of(plans.small(**changes))


def signed(url: str | None, by: SigningKey = KEY) -> Callable[[bytes], Found]:
    return lambda plan: Found(url or "a file", plan, by.sign(plan), url=url)


def unsigned(url: str | None) -> Callable[[bytes], Found]:
    return lambda plan: Found(url or "a file", plan, url=url)


LETTERS = "abcdefghi"
BOMB = (
    b"a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    + "".join(
        f"{name}: &{name} [{', '.join([f'*{under}'] * 10)}]\n"
        for under, name in itertools.pairwise(LETTERS)
    ).encode()
)
LARGE = b"# " + b"x" * (1 << 20)
STRANGE_TANG = FakeTang({TANG: advertisement(TANG, "W" * 43)})
WEAK = {"url": TANG, "thumbprint": "short"}
ESCROW = plans.encrypted()["encryption"]["recovery"]
DATA = {
    "name": "pgdata",
    "level": "raid10",
    "count": 4,
    "volumes": [{"mount": "/var/lib/pgsql", "grow": True}],
}
NOBODY = {"unlock": "tpm2", "recovery": {"escrow_to": []}}

CASES = (
    # --- the plan as a document ---
    written("nothing at all", b"", "the plan is empty"),
    written("a picture", b"\x89PNG\r\n", "is not UTF-8"),
    written("a list", b"- version: 1\n", "is not a mapping"),
    written("cut off in the middle", order()[:300] + b"\n  - {", "is not YAML"),
    written("a mebibyte and more", order() + LARGE, "at most 1048576 are read"),
    written("two plans in one file", order() + b"---\n" + order(), "a second document begins"),
    written("a key given twice", order() + b"hostname: other\n", "hostname", "twice"),
    written("an alias bomb", BOMB, "values"),
    written("a tag that would run code", b"version: !!python/object/apply:os.system [ls]\n", "tag"),
    planned("a key that nobody knows", "hostnam", "did you mean hostname?", hostnam="x"),
    planned("a version of tomorrow", "version: 2", "this program reads 1", version=2),
    planned("an id that is none", "id", "make one with uuidgen", id="abc"),
    planned("no machine named", "machine", "give mac, serial or uuid", machine={}),
    planned(
        "a serial that every board has",
        "To be filled by O.E.M.",
        "placeholder",
        machine={"serial": "To be filled by O.E.M."},
    ),
    planned("a group address for a MAC", "ff:ff:ff:ff:ff:ff", machine={"mac": "ff:ff:ff:ff:ff:ff"}),
    planned("a host name with a space", '"db 01" is not a host name', hostname="db 01"),
    planned("an expiry without a zone", "does not say its time zone", expires="2026-12-01T00:00"),
    planned("a size that is none", '"ten" is not a size', storage={"filesystem": "xfs", "volumes": [
        {"mount": "/srv", "size": "ten"}]}),
    planned("a preset that nobody knows", "stig-rhel99", storage={"preset": "stig-rhel99"}),
    planned("a volume without a size", "/srv", "give size or grow", storage={"volumes": [
        {"mount": "/srv"}]}),
    planned("options that contradict", "exec contradicts noexec", storage={"volumes": [
        {"mount": "/srv", "size": "1 GiB", "options": ["noexec", "exec"]}]}),
    planned("a mount point that climbs", "/srv/../etc", storage={"volumes": [
        {"mount": "/srv/../etc", "size": "1 GiB"}]}),
    planned("a password in an address", "carries a user or password", image={
        "manifest": "https://user:secret@images.example.com/x.json"}),
    planned("an address of another kind", "ftp", image={"manifest": "ftp://images/x.json"}),
    planned("a token with a line break", "report[0].token", report=[
        {"type": "http", "url": "https://d.example.com", "token": "a\nX-Evil: 1"}]),
    planned("a finish that nobody knows", "did you mean reboot?", finish="rebot"),
    planned("a bond without a port", "configure.network.bond.ports", "is empty", configure={
        "network": {"bond": {"ports": []}, "dhcp": True}}),
    planned("a VLAN that cannot be", "must be at most 4094, is 4095", configure={
        "network": {"match": {"name": "eno1"}, "vlan": 4095, "dhcp": True}}),
    planned("a mode that YAML reads as octal", "write it in quotes", configure={"files": [
        {"path": "/etc/motd", "mode": 420, "content": "x"}]}),
    planned("a RAID10 of three", "raid10 needs 4 disks or more, count asks for 3", storage={
        "data": [{**DATA, "count": 3}]}),
    planned("data where the system needs it early", "/var/log is needed before", storage={
        "data": [{**DATA, "volumes": [{"mount": "/var/log", "grow": True}]}]}),
    planned("FIPS mode by the kernel's option alone", "write configure.fips: true", configure={
        "kernel_options": ["fips=1"]}),
    planned("user data that cloud-init would not read", "does not begin as cloud-init", configure={
        "cloud_init": {"user_data": "echo hello"}}),
    # --- keys in the plan ---
    planned("an unlock policy that nobody knows", "tpm2 xor tang", encryption={
        "unlock": "tpm2 xor tang", "recovery": ESCROW}),
    planned("tang without a server", "name at least one server", encryption={
        "unlock": "tang", "recovery": ESCROW}),
    planned("a thumbprint that is none", "thumbprint", "short", encryption={
        "unlock": "tang", "tang": [WEAK], "recovery": ESCROW}),
    planned("nobody who keeps the recovery key", "escrow_to", encryption=NOBODY),
    planned("a certificate that is none", "is not one certificate in PEM", encryption={
        "unlock": "tpm2", "recovery": {"escrow_to": ["abc"]}}),
    planned("encryption, and no server that takes the envelope", "report: is missing", report=None),
    # --- the way that the plan came ---
    came("unsigned over plain http", unsigned(HTTP), "came over plain http and is not signed"),
    came("signed by a stranger", signed(HTTPS, STRANGER), "matches no trusted key"),
    came(
        "changed after it was signed",
        lambda plan: Found(HTTPS, plan, KEY.sign(plan + b" "), url=HTTPS),
        "matches no trusted key",
    ),
    came(
        "with half a signature",
        lambda plan: Found(HTTPS, plan, KEY.sign(plan)[:32], url=HTTPS),
        "has 32 bytes, Ed25519 has 64",
    ),
    came(
        "unsigned where the policy asks",
        unsigned(None),
        "is not signed",
        policy=Policy(require_signed_plan=True),
    ),
    came(
        "from a server that is not allowed",
        signed("https://169.254.169.254/plan.yaml"),
        "169.254.169.254",
        "allows only deploy.example.com",
        policy=Policy(allowed_servers=("deploy.example.com",)),
    ),
    came(
        "recorded, where the policy asks for a fresh one",
        signed(HTTPS),
        "no answer to the challenge",
        policy=Policy(require_fresh_plan=True),
    ),
    # --- the machine ---
    met("another machine by its MAC", lambda host: None, "machine.mac", "52:54:00:99:99:99",
        plan=order(machine={"mac": "52:54:00:99:99:99"})),
    met("another machine by its serial", lambda host: None, "the plan is for OTHER", "CZ1234",
        plan=order(machine={"serial": "OTHER"})),
    met("a plan of last year", lambda host: None, "the plan expired at 2025-01-01T00:00:00Z",
        plan=order(expires="2025-01-01T00:00:00Z")),
    met("booted by a legacy BIOS", inventory(firmware=Firmware(uefi=False)), "legacy BIOS"),
    met("too little memory", inventory(memory=256 * MIB), "256 MiB of memory"),
    met("no TPM", setting("tpm", FakeTpm(("this machine has no TPM 2.0",))), "has no TPM 2.0"),
    met("a TPM in lockout", setting("tpm", FakeTpm(("the TPM is in lockout",))), "in lockout"),
    met("a report server that is away", setting("reports.reasons", ("connection refused",)),
        "report[0]: connection refused"),
    met("an escrow certificate that has expired", setting("escrow.reasons", ("expired in 2020",)),
        "encryption.recovery.escrow_to[0]: expired in 2020"),
    met("no openssl", setting("escrow.fails", "openssl cms: is not installed"),
        "openssl cms: is not installed"),
    # --- its disks ---
    met("no disk", only(), "0 match, the plan counts 2"),
    met("one disk where a mirror is wanted", only(DISKS[0]), "1 match, the plan counts 2", "SN1"),
    met("three disks where two are wanted",
        only(*DISKS, DISKS[0].model_copy(update={"path": "/dev/vdb", "serial": "SN3"})),
        "3 match, the plan counts 2", "SN3"),
    met("a disk that is named and not there", lambda host: None, "X9",
        plan=order(disks={"count": 2, "where": {"serial": ["SN1", "X9"]}})),
    met("somebody's data", disks({"content": (content(),)}), "holds foreign data", '"precious"'),
    met("a disk in use", disks({"in_use": ("/dev/vda1 is mounted at /mnt",)}),
        "/dev/vda1 is mounted at /mnt"),
    met("a read-only disk", disks({"read_only": True}), "read-only"),
    met("disks that are too small", disks({"size": 8 * GIB}, {"size": 8 * GIB}), "GiB"),
    met("another disk under the same name",
        lambda host: host.storage.disks.update({Path("/dev/vda"): ("SN7", None, 64 * GIB)}),
        "serial was SN1, is SN7"),
    met("only the boot medium is left",
        disks({"boot_medium": True}), "booted from"),
    met("only a stick is left", disks({"transport": "usb"}), "usb"),
    met("only a SAN is left", disks({"transport": "fc"}, {"transport": "iscsi"}), "fc"),
    met("no disk left for data", lambda host: None, "0 match, the plan counts 4",
        "is a disk of the system", plan=order(storage={"data": [DATA]})),
    # --- the network's keys ---
    met("no Tang server there", setting("tang", FakeTang()), "encryption.tang", "refused"),
    met("a Tang server with another key", setting("tang", STRANGE_TANG), "has no key", "W" * 43),
    # --- the image ---
    met("a manifest that nobody signed", setting("images.wrong", "matches no trusted key"),
        "image.manifest", "matches no trusted key"),
    met("an image of last year", lambda host: None, "image.manifest: debian13 was packed at",
        "the plan takes none older than 2999-01-01T00:00:00Z", plan=order(image={
            "manifest": "http://10.0.0.5/x.json", "not_older_than": "2999-01-01T00:00:00Z"})),
    met("a payload that is not there", setting("images.away", "404 Not Found"), "404 Not Found"),
    met("an image of another architecture", tree(lambda section: {"architecture": "s390x"}),
        "is built for s390x"),
    met("an image that cannot start in FIPS mode", lambda host: None, "has no dracut/fips",
        plan=order(configure={"fips": True})),
    met("a network card that is not there", lambda host: None, "configure.network[0].match.mac",
        "no card has 52:54:00:99:99:99; this machine has 52:54:00:12:34:56",
        plan=order(configure={"network": {"match": {"mac": "52:54:00:99:99:99"}, "dhcp": True}})),
    met("a seed for an image without cloud-init", lambda host: None, "has no cloud-init",
        plan=order(configure={"cloud_init": {"user_data": "#cloud-config\n{}\n"}})),
    met("an image without a kernel", tree(lambda section: {"kernels": ()}), "has no kernel"),
    met("an image without mdadm", without("mdadm"), "mdadm"),
    met("an image without clevis", without("clevis", "clevis-luks-bind"), "clevis"),
    met("an image without cryptsetup", without("cryptsetup"), "cryptsetup"),
    met("an image without a boot loader", without("systemd-boot"), "systemd-boot"),
    met("an image that is larger than its volume", needs("/", bytes=900 * GIB), "900.0 GiB"),
    met("an image with more files than inodes", needs("/", inodes=10**12), "inodes",
        plan=order(storage={"preset": "plain", "filesystem": "ext4"})),
    met("a link across two volumes",
        tree(lambda section: {"links": (("/usr/share", "/var/lib"),)}),
        "must lie on one volume"),
)  # fmt: skip


def test_there_are_sixty_at_least_and_each_is_another() -> None:
    assert len(CASES) >= 60
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_is_refused_by_name_and_nothing_is_written(case: Case, tmp_path: Path) -> None:
    host = Guarded(tmp_path)
    case.spoil(host)

    def never(order: Order) -> None:
        raise AssertionError("was asked to approve a wrong order")

    def read(inventory: Inventory) -> Found:
        del inventory
        return case.found(case.plan)

    with pytest.raises((PlanError, MachineError)) as caught:
        run(read, host, host.reporter, never)
    told = "\n".join(map(str, caught.value.problems))
    assert caught.value.exit_status == case.status
    for words in case.says:
        assert words in told
    assert host.untouched
    (last,) = [event for event in host.receiver.events if event.step == "install"][-1:]
    assert last.state == "failed"
    assert "nothing was touched" in str(last.evidence["advice"])
