"""Look at the members of a root file system while it is packed, and say what is in it."""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from collections.abc import Mapping

from agent.payload.contents import COUNTED_FROM, DEPTH, Kernel, Need, Tree
from agent.payload.manifest import Os
from agent.payload.tar import Member

_BLOCK = 4096
_OS_RELEASE = ("etc/os-release", "usr/lib/os-release")
_OS_RELEASE_LIMIT = 64 << 10
_ELF_HEAD = 20

# Looked for in every directory of programs. Clevis is a family of scripts that call each other by
# name, so that a distribution can ship the pins in packages of their own.
# fmt: off
PROGRAMS = frozenset({
    "bootctl", "btrfs",
    "clevis", "clevis-decrypt-sss", "clevis-decrypt-tang", "clevis-decrypt-tpm2",
    "clevis-encrypt-sss", "clevis-encrypt-tang", "clevis-encrypt-tpm2", "clevis-luks-bind",
    "clevis-luks-unlock", "cloud-init", "cryptsetup", "curl", "dracut", "e2fsck", "efibootmgr",
    "grub-install", "grub-mkconfig", "grub2-install", "grub2-mkconfig", "jose", "kernel-install",
    "lvm", "mdadm", "mkinitcpio", "netplan", "NetworkManager", "openssl", "restorecon", "setfiles",
    "sshd", "systemd-cryptenroll", "tpm2_createprimary", "tpm2_load", "tpm2_unseal", "update-grub",
    "update-initramfs", "xfs_repair",
})
DRACUT = frozenset({
    "clevis", "clevis-pin-null", "clevis-pin-sss", "clevis-pin-tang", "clevis-pin-tpm2", "crypt",
    "fips", "lvm", "mdraid", "network", "systemd", "systemd-cryptsetup", "tpm2-tss",
})
INITRAMFS = frozenset({"clevis", "cryptroot", "lvm2", "mdadm"})
# fmt: on

# Where distributions keep what they sign: Debian and Ubuntu, SUSE, then Fedora in both its ways.
_EFI = r"|(?:boot/efi|usr/lib/(?:bootupd/updates|efi/[^/]+/[^/]+))/EFI/[^/]+/"
_GRUB = r"usr/lib/grub/[^/]+-efi-signed/grub\w+\.efi\.signed|usr/share/efi/[^/]+/grub\.efi"
_HMAC = r"boot/\.vmlinuz-[^/]+\.hmac|(?:usr/)?lib/modules/[^/]+/\.vmlinuz\.hmac"
_SHIM = r"usr/lib/shim/shim\w+\.efi(?:\.signed)?|usr/share/efi/[^/]+/shim\.efi"

# The word in the manifest, where it may lie, and for a family what the group may be.
_PLACES: tuple[tuple[str, re.Pattern[str], frozenset[str] | None], ...] = tuple(
    (word, re.compile(pattern), names)
    for word, pattern, names in (
        ("", r"(?:usr/)?s?bin/([^/]+)", PROGRAMS),
        ("dracut/", r"(?:usr/)?lib/dracut/modules\.d/\d+([^/]+)/module-setup\.sh", DRACUT),
        ("initramfs/", r"usr/share/initramfs-tools/hooks/([^/]+)", INITRAMFS),
        ("clevis-askpass", r"(?:usr/)?lib/systemd/system/clevis-luks-askpass\.path", None),
        ("grub-modules", r"usr/(?:lib|share)/grub2?/[^/]+-efi/modinfo\.sh", None),
        ("grub-signed", _GRUB + _EFI + r"grub\w+\.efi", None),
        ("kernel-hmac", _HMAC, None),
        ("selinux-policy", r"etc/selinux/[^/]+/policy/policy\.\d+", None),
        ("shim", _SHIM + _EFI + r"shim\w+\.efi", None),
        ("systemd", r"(?:usr/)?lib/systemd/systemd", None),
        ("systemd-boot", r"usr/lib/systemd/boot/efi/systemd-boot\w+\.efi", None),
        ("systemd-boot-signed", r"usr/lib/systemd/boot/efi/systemd-boot\w+\.efi\.signed", None),
        ("systemd-cryptsetup", r"(?:usr/)?(?:lib/systemd|bin)/systemd-cryptsetup", None),
        ("systemd-networkd", r"(?:usr/)?lib/systemd/systemd-networkd", None),
        ("systemd-resolved", r"(?:usr/)?lib/systemd/systemd-resolved", None),
        ("zram-generator", r"(?:usr/)?lib/systemd/system-generators/zram-generator", None),
        ("systemd-stub", r"usr/lib/systemd/boot/efi/linux\w+\.efi\.stub", None),
        ("uki", r"(?:usr/lib/modules/[^/]+|(?:boot/|efi/|boot/efi/)EFI/Linux)/[^/]+\.efi", None),
    )
)
_ROOTS = ("usr/", "bin/", "sbin/", "lib/", "etc/selinux/", "boot/", "efi/")
_KERNEL = re.compile(r"(?:usr/)?lib/modules/([^/]+)/(?:vmlinuz|Image)|boot/(?:vmlinuz|Image)-(.+)")
_INITRD = re.compile(
    r"(?:usr/)?lib/modules/([^/]+)/(?:initrd|initrd\.img|initramfs\.img)"
    r"|boot/initrd(?:\.img)?-(.+)|boot/initramfs-(.+)\.img"
)
_ELF = re.compile(r"(?:usr/)?lib/systemd/systemd|(?:usr/)?bin/(?:bash|dash|busybox|coreutils)")
# e_machine of elf(5) -> the name `uname -m` gives
_MACHINES = {21: "ppc64le", 22: "s390x", 62: "x86_64", 183: "aarch64", 243: "riscv64"}


def wanted(path: str) -> int:
    """Return how many bytes of this file's content the survey needs."""
    if path in _OS_RELEASE:
        return _OS_RELEASE_LIMIT
    return _ELF_HEAD if _ELF.fullmatch(path) else 0


class Survey:
    """Sees every member once, then tells."""

    def __init__(self) -> None:
        self.newest = 0
        """Latest modification time of a member, in Unix seconds."""
        self._members = 0
        self._bytes: defaultdict[str, int] = defaultdict(int)
        self._inodes: defaultdict[str, int] = defaultdict(int)
        self._programs: dict[str, str] = {}
        self._kernels: dict[str, str] = {}
        self._initrds: dict[str, str] = {}
        self._links: set[tuple[str, str]] = set()
        self._os_release: dict[str, bytes] = {}
        self._architecture: str | None = None

    def see(self, member: Member) -> None:
        self._members += 1
        self.newest = max(self.newest, member.mtime)
        self._count(member)
        if member.type == "directory" or not member.path.startswith(_ROOTS):
            pass
        elif match := _KERNEL.fullmatch(member.path):
            self._keep(self._kernels, _group(match), member.path)
        elif match := _INITRD.fullmatch(member.path):
            self._keep(self._initrds, _group(match), member.path)
        else:
            self._place(member.path)
        if member.head:
            self._read(member)

    def tree(self) -> Tree:
        return Tree(
            members=self._members,
            directories={
                path: Need(bytes=size, inodes=self._inodes[path])
                for path, size in sorted(self._bytes.items())
                if size >= COUNTED_FROM or path == "/"
            },
            kernels=tuple(
                Kernel(version=version, image=image, initrd=self._initrds.get(version))
                for version, image in sorted(self._kernels.items())
            ),
            programs=dict(sorted(self._programs.items())),
            architecture=self._architecture,
            links=tuple(sorted(self._links)),
        )

    def os(self) -> Os | None:
        """Return what os-release says, or None: an overlay has none."""
        for path in _OS_RELEASE:
            if path in self._os_release:
                return _os(self._os_release[path])
        return None

    def _count(self, member: Member) -> None:
        parts = member.path.split("/") if member.path else []
        above = parts if member.type == "directory" else parts[:-1]
        size = -(-member.size // _BLOCK) * _BLOCK
        if member.type == "directory":
            size = _BLOCK
        elif member.type == "hardlink":
            self._link(above, member.link.split("/")[:-1])
        inodes = member.type != "hardlink"
        for depth in range(min(len(above), DEPTH) + 1):
            path = "/" + "/".join(above[:depth])
            self._bytes[path] += size
            self._inodes[path] += inodes

    def _link(self, here: list[str], there: list[str]) -> None:
        one, other = sorted("/" + "/".join(parts[:DEPTH]) for parts in (here, there))
        if one != other:
            self._links.add((one, other))

    def _place(self, path: str) -> None:
        for word, pattern, names in _PLACES:
            match = pattern.fullmatch(path)
            if match is None:
                continue
            if names is None:
                self._keep(self._programs, word, path)
            elif match[1] in names:
                self._keep(self._programs, word + match[1], path)

    def _keep(self, found: dict[str, str], word: str, path: str) -> None:
        """Keep the place that sorts last: usr/ before boot/ and bin/, whatever the order is."""
        found[word] = max(found.get(word, ""), "/" + path)

    def _read(self, member: Member) -> None:
        if member.path in _OS_RELEASE:
            self._os_release[member.path] = member.head
        elif member.head.startswith(b"\x7fELF"):
            order = "little" if member.head[5] == 1 else "big"
            machine = int.from_bytes(member.head[18:20], order)  # type: ignore[arg-type]
            self._architecture = _MACHINES.get(machine, f"ELF machine {machine}")


def _group(match: re.Match[str]) -> str:
    return next(group for group in match.groups() if group is not None)


def _os(text: bytes) -> Os | None:
    fields = _os_release(text.decode(errors="replace"))
    name = fields.get("ID", "linux").lower()
    if not re.fullmatch(r"[a-z0-9._-]{1,64}", name):
        return None
    return Os(
        id=name,
        version=fields.get("VERSION_ID", "")[:256],
        like=tuple(fields.get("ID_LIKE", "").split()[:16]),
    )


def _os_release(text: str) -> Mapping[str, str]:
    """Parse os-release(5): shell assignments, one a line, nothing expanded."""
    fields = {}
    for line in text.splitlines():
        key, equals, value = line.strip().partition("=")
        if equals and not key.startswith("#"):
            try:
                (fields[key],) = shlex.split(value) or [""]
            except ValueError:  # a quote left open, or several words
                continue
    return fields
