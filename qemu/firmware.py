"""OVMF: the UEFI firmware of the emulated machines, and the store of its variables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qemu.errors import RigError
from qemu.program import HINT, run

# Debian 12 and 13 name the 4 MiB builds alike; the 2 MiB ones are gone from 13.
_PLACES = (Path("/usr/share/OVMF"), Path("/usr/share/edk2/x64"))


@dataclass(frozen=True)
class Firmware:
    """Code (read only, shared) and the variable store that a new machine starts with."""

    code: Path
    template: Path
    secure_boot: bool = False
    """The build verifies signatures and needs SMM; whether keys are enrolled, the store decides."""

    def new_variables(self, at: Path) -> Path:
        """Create a machine's own variable store from the template.

        A qcow2 copy, because QEMU refuses to take snapshots while a writable raw image is there.
        """
        at.parent.mkdir(parents=True, exist_ok=True)
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", self.template, at)
        return at


def find(*, secure_boot: bool = False, microsoft_keys: bool = False) -> Firmware:
    """Return the installed OVMF, 4 MiB build.

    `secure_boot` takes the build that enforces signatures; with `microsoft_keys` its store comes
    with Microsoft's certificates enrolled, otherwise in setup mode, for own keys.
    """
    code = "OVMF_CODE_4M.secboot.fd" if secure_boot else "OVMF_CODE_4M.fd"
    variables = "OVMF_VARS_4M.ms.fd" if microsoft_keys else "OVMF_VARS_4M.fd"
    for place in _PLACES:
        if (place / code).exists() and (place / variables).exists():
            return Firmware(place / code, place / variables, secure_boot)
    where = " or ".join(map(str, _PLACES))
    raise RigError(f"OVMF: neither {code} nor {variables} in {where}, {HINT}")
