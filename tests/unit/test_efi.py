"""Boot entries, from what two versions of efibootmgr printed for the same variables."""

from __future__ import annotations

import pytest

from agent.adapters.efi import parse_entries
from agent.machine import BootEntry

VERSION_17 = r"""BootCurrent: 0001
Timeout: 3 seconds
BootOrder: 0003,000A,0000,0001,0002,000B
Boot0000* UiApp	FvVol(7cb8bdc9-f8eb-4f34-aaea-3ee4af6516a1)/FvFile(462caa21-7614-4503-836e-8ab6f4662331)
Boot0001* UEFI PXEv4 (MAC:525400123456)	PciRoot(0x0)/Pci(0x3,0x0)/MAC(525400123456,1)/IPv4(0.0.0.00.0.0.0,0,0)...N.*^M.>.o=o..
Boot0002* UEFI HTTPv4 (MAC:525400123456)	PciRoot(0x0)/Pci(0x3,0x0)/MAC(525400123456,1)/IPv4(0.0.0.00.0.0.0,0,0)/Uri()
Boot0003* Linux Boot Manager (disk 1)	HD(1,GPT,1b2f0c4e-6b0f-4c56-9f4d-0d3a5a1c0001,0x800,0x200000)/File(\EFI\systemd\systemd-bootx64.efi)
Boot000A* debian	HD(1,GPT,aabbccdd-0011-2233-4455-66778899aabb,0x800,0x100000)/File(\EFI\debian\shimx64.efi)
Boot000B  odd HD(1,GPT,not-a-guid) label	PciRoot(0x0)/Pci(0x1,0x1)
"""  # noqa: E501

VERSION_18 = r"""BootCurrent: 0001
Timeout: 3 seconds
BootOrder: 0003,000A,0000,0001,0002,000B
Boot0000* UiApp	FvVol(7cb8bdc9-f8eb-4f34-aaea-3ee4af6516a1)/FvFile(462caa21-7614-4503-836e-8ab6f4662331)
      dp: 04 07 14 00 c9 bd b8 7c eb f8 34 4f aa ea 3e e4 af 65 16 a1 / 04 06 14 00 21 aa 2c 46 14 76 03 45 83 6e 8a b6 f4 66 23 31 / 7f ff 04 00
Boot0001* UEFI PXEv4 (MAC:525400123456)	PciRoot(0x0)/Pci(0x3,0x0)/MAC(525400123456,1)/IPv4(0.0.0.00.0.0.0,0,0){4eacf0f1-2ab3-4d5e-9a3e-0b6f3d6f9c11}
      dp: 02 01 0c 00 d0 41 03 0a 00 00 00 00 / 01 01 06 00 00 03 / 7f ff 04 00
    data: f1 f0 ac 4e b3 2a 5e 4d 9a 3e 0b 6f 3d 6f 9c 11
Boot0002* UEFI HTTPv4 (MAC:525400123456)	PciRoot(0x0)/Pci(0x3,0x0)/MAC(525400123456,1)/IPv4(0.0.0.00.0.0.0,0,0)/Uri()
      dp: 02 01 0c 00 d0 41 03 0a 00 00 00 00 / 01 01 06 00 00 03 / 03 18 04 00 / 7f ff 04 00
Boot0003* Linux Boot Manager (disk 1)	HD(1,GPT,1b2f0c4e-6b0f-4c56-9f4d-0d3a5a1c0001,0x800,0x200000)/File(\EFI\systemd\systemd-bootx64.efi)
      dp: 04 01 2a 00 01 00 00 00 00 08 00 00 00 00 00 00 00 00 20 00 00 00 00 00 4e 0c 2f 1b 0f 6b 56 4c 9f 4d 0d 3a 5a 1c 00 01 02 02 / 7f ff 04 00
Boot000A* debian	HD(1,GPT,aabbccdd-0011-2233-4455-66778899aabb,0x800,0x100000)/File(\EFI\debian\shimx64.efi)
      dp: 04 01 2a 00 01 00 00 00 00 08 00 00 00 00 00 00 00 00 10 00 00 00 00 00 dd cc bb aa 11 00 33 22 44 55 66 77 88 99 aa bb 02 02 / 7f ff 04 00
Boot000B  odd HD(1,GPT,not-a-guid) label	PciRoot(0x0)/Pci(0x1,0x1)
      dp: 02 01 0c 00 d0 41 03 0a 00 00 00 00 / 01 01 06 00 01 01 / 7f ff 04 00
"""  # noqa: E501

WITHOUT_PATHS = """BootCurrent: 0001
BootOrder: 0003
Boot0003* Linux Boot Manager (disk 1)
"""


@pytest.mark.parametrize("text", [VERSION_17, VERSION_18], ids=["17", "18"])
def test_both_versions_are_read_alike(text: str) -> None:
    assert parse_entries(text) == (
        BootEntry("0000", "UiApp", None),
        BootEntry("0001", "UEFI PXEv4 (MAC:525400123456)", None),
        BootEntry("0002", "UEFI HTTPv4 (MAC:525400123456)", None),
        BootEntry("0003", "Linux Boot Manager (disk 1)", "1b2f0c4e-6b0f-4c56-9f4d-0d3a5a1c0001"),
        BootEntry("000A", "debian", "aabbccdd-0011-2233-4455-66778899aabb"),
        BootEntry("000B", "odd HD(1,GPT,not-a-guid) label", None),
    )


def test_an_entry_without_a_path_points_nowhere() -> None:
    assert parse_entries(WITHOUT_PATHS) == (BootEntry("0003", "Linux Boot Manager (disk 1)", None),)


def test_a_partition_below_a_controller_is_found_and_written_in_lower_case() -> None:
    disk = "HD(1,GPT,AABBCCDD-0011-2233-4455-66778899AABB,0x800,0x1)"
    (entry,) = parse_entries(f"Boot00ab* disk\tPciRoot(0x0)/NVMe(0x1,00-00)/{disk}/File(\\X)")
    assert (entry.number, entry.partuuid) == ("00AB", "aabbccdd-0011-2233-4455-66778899aabb")


def test_what_is_no_entry_is_passed_over() -> None:
    assert parse_entries("") == ()
    assert parse_entries("EFI variables are not supported on this system.\nBootNext: 0003\n") == ()
