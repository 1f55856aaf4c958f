"""What the live image is carried in: a signed UKI, a hybrid ISO, a disk image, and their checksums.

All of it is derived from what `image/builder/live.py` leaves, by programs that need no root, and
from equal input the bytes are equal. Two chains can start a medium:

* with an operator's key for Secure Boot, the UKI signed by it, which the firmware starts;
* without one, Microsoft's shim, Debian's GRUB and Debian's kernel, all signed by those, which
  firmware as it is sold starts with Secure Boot on or off.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from uuid import UUID, uuid5

from agent.adapters import command
from agent.errors import CommandError
from agent.media import disk, iso
from agent.media.fat import Volume, room_for
from agent.media.names import BOOTED, GRUB_CONFIGURATION, LABEL, LOADER_OPTIONS
from agent.media.tools import EPOCH, Tools
from image.builder import apt, mkosi, outputs, stage
from image.builder.report import BuildError, say, timed
from image.slim import form as slim

ISO, RAW = "bedplate.iso", "bedplate.raw"
SIGNATURE = "SHA256SUMS.sig"
STAMP = ".forms"
BOOT_FILE = "EFI/BOOT/BOOTX64.EFI"
LOADERS = {
    BOOT_FILE: ("shim-signed", "usr/lib/shim/shimx64.efi.signed"),
    "EFI/BOOT/mmx64.efi": ("shim-helpers-amd64-signed", "usr/lib/shim/mmx64.efi.signed"),
    "EFI/BOOT/grubx64.efi": (
        "grub-efi-amd64-signed",
        "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed",
    ),
}
NEEDED = {
    "mcopy": "mtools",
    "mkfs.vfat": "dosfstools",
    "sfdisk": "fdisk",
    "xorriso": "xorriso",
    "openssl": "openssl",
}
MIB = 1 << 20
VOLUME = 64 * MIB
"""Of bedplate.raw, for the operator's files; `bedplate media` makes it as large as they are."""
_NAMESPACE = UUID("8f1d6d6e-9d5b-4a63-9a0e-5d6a4b0a7f11")
_READ_ME = """\
The live image of Bedplate. What lies here beside this file is found when it boots:

  plan.yaml, plan.yaml.sig   the plan of the machine, and its signature
  ca/*.pem                   certificate authorities to trust for https
  keys/*.pub                 public keys that may sign images
  plan-keys/*.pub            public keys that may sign plans
  images/                    images, as file:///run/bedplate/media/images/NAME.json

Put it here by any means, or let `bedplate media` make a medium with it.
"""
_GRUB = """\
# The medium GRUB was started from, and no other: a disk of the machine may carry an old label.
set timeout=0
set medium=$root
set disk=
regexp --set=1:disk '^([^,]+),' "$root"
if [ ! -f "($medium)/vmlinuz" -a -n "$disk" ]; then set medium="$disk,gpt1"; fi
if [ ! -f "($medium)/vmlinuz" ]; then
  for cd in cd0 cd1 cd2 cd3; do
    if [ -f "($cd)/vmlinuz" ]; then set medium=$cd; break; fi
  done
fi
set extra=
if [ -f "($medium)/@OPTIONS@" ]; then source "($medium)/@OPTIONS@"; fi
menuentry "Bedplate" {
  linux ($medium)/vmlinuz @CMDLINE@ @BOOTED@ $extra
  initrd ($medium)/initrd.img
}
"""


def finish(root: Path, target: Path) -> None:
    """Sign what the build left: the UKI for Secure Boot, and the list of checksums.

    Forms of an older build are removed.
    """
    secure_boot = root / "build/keys/secureboot"
    if (secure_boot / "db.key").exists() and (secure_boot / "db.crt").exists():
        _sign_uki(target / "bedplate.efi", secure_boot)
    recorded = target / STAMP
    if recorded.exists() and recorded.read_text().split()[0] != _live_digest(target):
        for name in (ISO, RAW, STAMP):
            (target / name).unlink(missing_ok=True)
    slim.drop_stale(target)
    _list(root, target)


def make(root: Path, workshop: Path, target: Path, *, force: bool) -> None:
    """Write the ISO and the disk image beside the live image, unless they are there already."""
    install_programs()
    signed = (root / "build/keys/secureboot/db.crt").exists()
    loaders = {} if signed else fetch_loaders(workshop, force=force)
    code = stage.digest([Path(__file__), root / "agent/media"], *sorted(map(str, loaders)))
    stamp = f"{_live_digest(target)} {stage.digest(loaders.values(), code)}\n"
    recorded = target / STAMP
    names = (ISO, RAW)
    there = all((target / name).exists() for name in names)
    if there and recorded.exists() and recorded.read_text() == stamp:
        say(f"{target.name}: {ISO} and {RAW} are up to date")
        return
    recorded.unlink(missing_ok=True)
    with timed(f"{target.name}: writing {ISO} and {RAW}"):
        try:
            write(root, workshop / "forms", target, loaders, stamp)
        except CommandError as error:
            raise BuildError(str(error)) from None
    _list(root, target)
    recorded.write_text(stamp)
    for name in names:
        say(f"  {target / name}  {(target / name).stat().st_size / MIB:.1f} MiB")


def fetch_loaders(workshop: Path, *, force: bool) -> dict[str, Path]:
    """Return Debian's signed loaders by their place on the ESP; fetched once."""
    place = workshop / "loaders"
    loaders = {name: place / path for name, (_, path) in LOADERS.items()}
    if force or not all(path.exists() for path in loaders.values()):
        with timed("shim and GRUB, signed: fetching them"):
            archive = apt.Archive(
                mkosi.sandbox(workshop, apt.RELEASE) / "etc/apt", workshop / "apt-loaders"
            )
            archive.update()
            shutil.rmtree(place, ignore_errors=True)
            for package, _ in LOADERS.values():
                subprocess.run(["dpkg-deb", "-x", archive.download(package), place], check=True)
    return loaders


def install_programs() -> None:
    """Install what is missing of the programs that write media."""
    packages = sorted({package for name, package in NEEDED.items() if not shutil.which(name)})
    if packages:
        with timed(f"apt: installing {' '.join(packages)}"):
            _apt("update")
            _apt("install", "--yes", "--no-install-recommends", *packages)


def grub_configuration(root: Path) -> str:
    """Return grub.cfg, with the kernel command line of the live image."""
    text = (root / "mkosi.conf.d/10-base.conf").read_text()
    found = re.search(r"^KernelCommandLine=(.+)$", text, re.MULTILINE)
    if found is None:
        raise BuildError("mkosi.conf.d/10-base.conf: has no KernelCommandLine=")
    words = {"@CMDLINE@": found[1], "@BOOTED@": BOOTED, "@OPTIONS@": LOADER_OPTIONS}
    return re.sub("@[A-Z]+@", lambda match: words[match[0]], _GRUB)


def write(root: Path, place: Path, target: Path, loaders: Mapping[str, Path], content: str) -> None:
    """Make both in `place`, which vanishes, then move them to `target`; without loaders of the UKI.

    `content` stands for everything that goes in: every id is derived from it.
    """
    tools = Tools(command.run, int(os.environ.get("SOURCE_DATE_EPOCH", EPOCH)))
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    guid = uuid5(_NAMESPACE, content)
    read_me, grub = place / "README.txt", place / "grub.cfg"
    read_me.write_text(_READ_ME)
    grub.write_text(grub_configuration(root))
    # With a loader, kernel and initrd lie outside of the ISO's ESP: El Torito counts the sectors
    # of its image with 16 bits, and some firmware reads no more than those 32 MiB.
    kernel = {name: target / name for name in ("vmlinuz", "initrd.img")} if loaders else {}
    boot = (
        {**loaders, GRUB_CONFIGURATION: grub} if loaders else {BOOT_FILE: target / "bedplate.efi"}
    )
    esp = place / "esp.img"
    _esp(Volume(esp, 0, tools), boot, guid, 8 * MIB)
    seen = {"README.txt": read_me, **kernel}
    if loaders:  # where firmware shows GRUB the CD and not its boot image
        seen[GRUB_CONFIGURATION] = grub
    iso.create(place / ISO, esp, seen, uuid5(guid, "iso"), tools)

    raw = place / RAW
    size = _esp(Volume(raw, disk.ESP_AT, tools), {**boot, **kernel}, guid, 34 * MIB)
    _, at = disk.lay_out(raw, size, VOLUME, uuid5(guid, "raw"), tools)
    volume = Volume(raw, at, tools)
    volume.format(VOLUME, LABEL, uuid5(guid, "volume").time_low)
    volume.add({"README.txt": read_me})
    for name in (ISO, RAW):
        (place / name).replace(target / name)
    shutil.rmtree(place)


def _esp(volume: Volume, files: Mapping[str, Path], guid: UUID, least: int) -> int:
    """Make an ESP with these files; returns its size in bytes. From 34 MiB on it is FAT32."""
    size = room_for(files, MIB, least)
    volume.format(size, "BEDPLATE-EF", uuid5(guid, "esp").time_low)
    volume.add(files)
    return size


def _sign_uki(uki: Path, keys: Path) -> None:
    """Sign the UKI with the operator's key unless it is; a signature of another key goes."""
    if not shutil.which("sbsign"):
        _apt("update")
        _apt("install", "--yes", "--no-install-recommends", "sbsigntool")
    certificate = keys / "db.crt"
    check: list[str | Path] = ["sbverify", "--cert", certificate, uki]
    if subprocess.run(check, capture_output=True, check=False).returncode == 0:
        return
    partial = uki.with_suffix(".signing")
    shutil.copyfile(uki, partial)
    subprocess.run(["sbattach", "--remove", partial], capture_output=True, check=False)
    sign: list[str | Path] = [
        "sbsign",
        "--key",
        keys / "db.key",
        "--cert",
        certificate,
        "--output",
        partial,
        partial,
    ]
    done = subprocess.run(sign, capture_output=True, text=True, check=False)
    if done.returncode:
        partial.unlink()
        raise BuildError(f"sbsign: {uki.name} was not signed: {done.stderr.strip()}")
    partial.replace(uki)
    say(f"  {uki}  signed for Secure Boot by {certificate}")


def _list(root: Path, target: Path) -> None:
    """Write SHA256SUMS of all that lies there, and its signature by the image key if it is here."""
    names = sorted(path.name for path in _files(target))
    known = _known_sums(target)
    sums = {name: known.get(name) or _sha256(target / name) for name in names}
    listed = target / outputs.SUMS
    text = "".join(f"{sums[name]}  {name}\n" for name in names)
    signature, key = target / SIGNATURE, root / "build/keys/image.key"
    if listed.read_text() == text and _is_signed(listed, signature, key):
        return
    listed.write_text(text)
    signature.unlink(missing_ok=True)
    if key.exists():
        done = _pkeyutl("-sign", "-inkey", key, "-in", listed, "-out", signature)
        if done.returncode:
            raise BuildError(f"openssl: {listed} was not signed: {done.stderr.decode().strip()}")


def _is_signed(listed: Path, signature: Path, key: Path) -> bool:
    """Whether the list needs no new signature: it is this key's, or none where there is no key.

    Without the key a signature is believed that is younger than the list, which a build of the
    live image writes anew.
    """
    if not signature.exists():
        return not key.exists()
    if not key.exists():
        return signature.stat().st_mtime_ns >= listed.stat().st_mtime_ns
    done = _pkeyutl("-verify", "-inkey", key, "-in", listed, "-sigfile", signature)
    return done.returncode == 0


def _pkeyutl(*options: str | Path) -> subprocess.CompletedProcess[bytes]:
    argv = ["openssl", "pkeyutl", "-rawin", *options]
    return subprocess.run(argv, capture_output=True, check=False)


def _files(target: Path) -> Iterable[Path]:
    listed = (outputs.SUMS, SIGNATURE)
    return (path for path in target.iterdir() if path.name not in listed and path.name[0] != ".")


def _known_sums(target: Path) -> dict[str, str]:
    """Return the checksums that are listed and newer than their files."""
    listed = target / outputs.SUMS
    if not listed.exists():
        return {}
    since = listed.stat().st_mtime_ns
    lines = (line.split("  ", 1) for line in listed.read_text().splitlines())
    return {
        name: digest
        for digest, name in lines
        if (target / name).exists() and (target / name).stat().st_mtime_ns < since
    }


def _live_digest(target: Path) -> str:
    """Return the digest of what the forms are made of, by its listed checksums."""
    known = _known_sums(target)
    parts = [known.get(name) or _sha256(target / name) for name in _INPUTS]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


_INPUTS = ("bedplate.efi", "initrd.img", "vmlinuz")


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _apt(*arguments: str) -> None:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    argv = ["apt-get", "--quiet", *arguments]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"apt-get {arguments[0]} failed:\n{done.stdout}{done.stderr}")
