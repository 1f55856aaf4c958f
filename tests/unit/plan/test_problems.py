"""A wrong plan is answered with every problem, its place, its value and what would be right."""

from __future__ import annotations

from typing import Any

import pytest

from agent.errors import PlanError
from agent.plan.catalog import BUILT_IN
from agent.plan.parse import parse
from tests.unit.plan.plans import SSH_KEY, certificate, encrypted, problems_of, small, text_of

NOT_YET = "is not supported yet by this version"
CARD = {"mac": "52:54:00:12:34:57"}
BUILT = "https://foreman.example.com/unattended/built"
SIZE = "its size; where it grows, what it has at least"
EVERYTHING_WRONG = b"""\
version: 2
machine:
  serial: no
hostname: db_01
overlays: [{}]
disks:
  count: 4
  where: {transport: [nvme, sda], size: 400 GB, serial: 0123, trasport: a}
  erase:
storage:
  volumes:
    - {mount: /home, size: ten, options: [noexec, exec]}
    - {mount: /srv}
encryption:
  unlock: tpm2 and tang
  recovery: {escrow_to: ["abc"]}
configure:
  files: [{path: /etc/motd, mode: 0644, content: hello}]
report:
  - {type: http, url: "https://user:pw@x/", token: 123}
finish: rebot
"""


def test_every_mistake_is_reported_at_once_in_the_order_of_the_document() -> None:
    with pytest.raises(PlanError) as caught:
        parse(EVERYTHING_WRONG)
    assert str(caught.value).splitlines() == [
        (
            "id: is missing: names the order; the same id is never carried out twice on a machine "
            "(line 1)"
        ),
        "image: is missing: the image that is installed (line 1)",
        "version: 2 is not a version that is known: this program reads 1 (line 1)",
        'machine.serial: write it in quotes, "no": bare, YAML reads it as false (line 3)',
        (
            'hostname: "db_01" is not a host name: letters, digits and inner hyphens, parts '
            "of at most "
            "63 characters joined by dots (line 4)"
        ),
        (
            "overlays[0].manifest: is missing: where its manifest lies; several addresses are "
            "mirrors, as in `image` (line 5)"
        ),
        f"disks.count: 4 {NOT_YET}: use 1 or 2 or 3 (line 7)",
        (
            'disks.where.transport[1]: "sda" is not one of nvme, sata, sas, scsi, virtio, '
            "usb, mmc, fc, iscsi, nvmeof: "
            "did you mean sas? (line 8)"
        ),
        (
            'disks.where.size: "400 GB" is not a condition: write it as ">= 400 GB" or "< 2 TB" '
            "(line 8)"
        ),
        (
            'disks.where.serial: write it in quotes, "0123": bare, YAML reads it as the number 83 '
            "(line 8)"
        ),
        "disks.where.trasport: unknown key: did you mean transport? (line 8)",
        "disks.erase: is empty: give a value or leave the key out (line 9)",
        (
            'storage.volumes[0].size: "ten" is not a size: write it as "20 GiB", "500 GB", '
            '"40%" or a '
            "number of bytes (line 12)"
        ),
        "storage.volumes[0].options[1]: exec contradicts noexec (line 12)",
        (
            'encryption.tang: is missing: unlock is "tpm2 and tang", so name at least one server '
            "(line 15)"
        ),
        (
            "encryption.recovery.escrow_to[0]: is not one certificate in PEM "
            "(-----BEGIN CERTIFICATE-----) (line 16)"
        ),
        (
            'configure.files[0].mode: write it in quotes, "0644": bare, YAML reads it as the '
            "number "
            "420 (line 18)"
        ),
        (
            "report[0].url: carries a user or password, which would end up in logs: leave it out "
            "(line 20)"
        ),
        "report[0].token: is not text: write it in quotes (line 20)",
        'finish: "rebot" is not one of reboot, poweroff, stay: did you mean reboot? (line 21)',
    ]


TABLE: list[tuple[dict[str, Any], list[str]]] = [
    # the top
    (small(version=True), ["version: true is not a version that is known: this program reads 1"]),
    (small(version="1"), ['version: "1" is not a version that is known: this program reads 1']),
    (small(id="abc"), ['id: "abc" is not a UUID: make one with uuidgen']),
    (
        small(expires="2026-12-01"),
        [
            (
                'expires: "2026-12-01" does not say its time zone: write a time such as '
                "2026-12-01T00:00:00Z"
            )
        ],
    ),
    (
        small(expires="tomorrow"),
        ['expires: "tomorrow" is not a time such as 2026-12-01T00:00:00Z'],
    ),
    (
        small(expires="0001-01-01T00:00:00+23:00"),
        ['expires: "0001-01-01T00:00:00+23:00" is not a time such as 2026-12-01T00:00:00Z'],
    ),
    (small(finish="kexec"), [f'finish: "kexec" {NOT_YET}: use reboot or poweroff or stay']),
    (small(disk={}), ["disk: unknown key: did you mean disks?"]),
    (small(xyzzy={}), ["xyzzy: unknown key"]),
    # machine
    (
        small(machine={}),
        ["machine: names no machine: give mac, serial or uuid, or several of them"],
    ),
    (
        small(machine={"mac": "52:54:00:12:34"}),
        ['machine.mac: "52:54:00:12:34" is not a MAC address such as 52:54:00:12:34:56'],
    ),
    (
        small(machine={"mac": "ff:ff:ff:ff:ff:ff"}),
        ['machine.mac: "ff:ff:ff:ff:ff:ff" is a group address, which no interface has of its own'],
    ),
    (
        small(machine={"serial": "To be filled by O.E.M."}),
        [
            (
                'machine.serial: "To be filled by O.E.M." is a placeholder that many boards '
                "share: use "
                "the mac"
            )
        ],
    ),
    (
        small(machine={"uuid": "03000200-0400-0500-0006-000700080009"}),
        [
            (
                "machine.uuid: 03000200-0400-0500-0006-000700080009 is a placeholder that "
                "many boards "
                "share: use the mac"
            )
        ],
    ),
    # hostname
    (
        small(hostname=""),
        [
            (
                'hostname: "" is not a host name: letters, digits and inner hyphens, '
                "parts of at most 63 characters joined by dots"
            )
        ],
    ),
    (small(hostname="a" * 65), ["hostname: has 65 characters, Linux keeps at most 64"]),
    (
        small(hostname="192.0.2.7"),
        ['hostname: "192.0.2.7" reads as an address: the last part needs a letter'],
    ),
    # disks
    (
        small(disks={}),
        ["disks.count: is missing: 1 for a single disk, 2 or 3 for a mirror of as many"],
    ),
    (small(disks={"count": True}), ["disks.count: true is not one of 1, 2, 3"]),
    (small(disks={"count": "2"}), ['disks.count: "2" is not one of 1, 2, 3: did you mean 2?']),
    (
        small(disks={"count": 1, "secure_erase": "nvme"}),
        [
            (
                'disks.secure_erase: "nvme" is not one of auto, nvme-sanitize, nvme-format, ata, '
                "discard"
            ),
        ],
    ),
    (small(disks=[]), ["disks: must be a mapping of keys, is a list"]),
    (
        small(disks={"count": 1, "on_different_controllers": True}),
        ["disks.on_different_controllers: needs more than one disk, count asks for 1"],
    ),
    (
        small(disks={"count": 2, "where": {"serial": "A"}}),
        ["disks.where.serial: names 1 disk, count asks for 2"],
    ),
    (
        small(disks={"count": 1, "where": {"path": "sda"}}),
        ['disks.where.path: "sda" is not an absolute path such as /var/log'],
    ),
    (
        small(disks={"count": 1, "where": {"path": ["/tmp/x"]}}),
        ['disks.where.path[0]: "/tmp/x" is not below /dev'],
    ),
    (
        small(disks={"count": 1, "where": {"rotational": "yes"}}),
        ["disks.where.rotational: must be true or false, is text"],
    ),
    (
        small(disks={"count": 1, "where": {"wwn": []}}),
        ["disks.where.wwn: is empty: give at least one"],
    ),
    (
        small(disks={"count": 1, "where": {"size": ">= 40%"}}),
        [
            (
                'disks.where.size: "40%" is not a size: write it as "20 GiB", "500 GB" or a '
                "number of "
                "bytes"
            )
        ],
    ),
    # storage
    (
        small(storage={"preset": "stig-rhel-9"}),
        [
            (
                f'storage.preset: "stig-rhel-9" is not one of {", ".join(BUILT_IN)}: did you mean '
                "stig-rhel9?"
            )
        ],
    ),
    (
        small(storage={"preset": {"name": "ours", "extends": "plain", "volumes": 3, "esp": 4}}),
        [
            "storage.preset.esp: must be a mapping of keys, is a number",
            "storage.preset.volumes: must be a list, is a number",
        ],
    ),
    (small(storage={"preset": 9}), ["storage.preset: must be a mapping of keys, is a number"]),
    (
        small(storage={"preset": {"name": "plain", "extends": "stig-rhel9"}}),
        ["storage.preset: plain is there already: give it another name"],
    ),
    (
        small(storage={"preset": {"name": "ours", "extends": "stig-rhel7"}}),
        [
            (
                f'storage.preset: "stig-rhel7" is not one of {", ".join(BUILT_IN)}: did you mean '
                "stig-rhel9?"
            )
        ],
    ),
    (
        small(storage={"preset": {"name": "ours", "volumes": [{"mount": "/"}]}}),
        [
            "storage.preset.boot: is missing: the partition of /boot",
            "storage.preset.esp: is missing: the EFI system partition",
            f"storage.preset.volumes[0].size: is missing: {SIZE}",
        ],
    ),
    (
        small(
            storage={
                "preset": {
                    "name": "ours",
                    "extends": "stig-rhel9",
                    "volumes": [
                        {"mount": "/home", "grow": True, "options": {"nodev": "RHEL"}},
                        {"mount": "/srv"},
                        {"mount": "/dev/x", "size": "1 GiB"},
                        7,
                    ],
                    "boot": {"filesystem": "vfat"},
                    "tmpfs": [[]],
                    "summery": "x",
                }
            }
        ),
        [
            "storage.preset.volumes[0].options.nodev: must be a list, is text",
            f"storage.preset.volumes[1].size: is missing: {SIZE}",
            "storage.preset.volumes[2].mount: /dev/x lies on /dev, which the kernel provides",
            "storage.preset.volumes[3]: must be a mapping of keys, is a number",
            "storage.preset.tmpfs[0]: must be a mapping of keys, is a list",
            "storage.preset.summery: unknown key: did you mean summary?",
        ],
    ),
    (
        small(
            storage={
                "preset": {
                    "name": "ours",
                    "extends": ["stig-rhel9"],
                    "volumes": [{"mount": "/home", "grow": True}, {"mount": "/home"}],
                    "without": ["/"],
                }
            }
        ),
        [
            "storage.preset.volumes: / is missing: every installation has that volume",
            "storage.preset.volumes[1].mount: /home is there twice",
        ],
    ),
    (
        small(
            storage={
                "preset": "stig-rhel9",
                "volumes": [{"mount": "/tmp", "size": "2 GiB"}, {"mount": "/srv"}],
                "without": ["/", "/srv", "/tmp", "/home", "/home"],
            }
        ),
        [
            "storage.volumes[1]: /srv is not a volume of stig-rhel9: give size or grow",
            "storage.without[0]: / cannot be left out",
            "storage.without[1]: /srv is not a volume of stig-rhel9",
            "storage.without[2]: /tmp is in volumes too: give one of the two",
            "storage.without[4]: /home is there twice",
        ],
    ),
    (
        small(storage={"swap": "4 GiB"}),
        ["storage.swap: needs encryption, or memory would lie open on the disk: take zram instead"],
    ),
    (
        small(storage={"swap": "4 MiB", "raid": []}),
        [
            f"storage.raid: {NOT_YET}",
            "storage.swap: 4 MiB is too small: take 16 MiB or more",
        ],
    ),
    (
        small(storage={"leave": "30%", "volumes": [{"mount": "/srv", "size": "80%"}]}),
        ["storage.volumes: the shares add up to 110%, there are 100%"],
    ),
    (
        small(storage={"filesystem": "zfs"}),
        ['storage.filesystem: "zfs" is not one of xfs, ext4, btrfs: did you mean xfs?'],
    ),
    (
        small(storage={"volume_group": "my vg"}),
        ['storage.volume_group: "my vg" is not a volume group name: letters, digits and _+.-'],
    ),
    (
        small(storage={"volumes": [{"mount": "/srv"}]}),
        ["storage.volumes[0]: /srv is not a volume of plain: give size or grow"],
    ),
    (
        small(storage={"volumes": [{"mount": "/srv", "grow": 101}, {"mount": "/", "grow": 0.5}]}),
        [
            "storage.volumes[0].grow: 101 is neither true nor false nor a weight from 1 to 100",
            "storage.volumes[1].grow: 0.5 is neither true nor false nor a weight from 1 to 100",
        ],
    ),
    (
        small(storage={"volumes": [{"mount": "/srv", "size": "5 GiB", "max": "9 GiB"}]}),
        ["storage.volumes[0].max: size is 5 GiB already: leave out one of the two"],
    ),
    (
        small(
            storage={
                "volumes": [
                    {"mount": "/srv", "grow": 2, "min": "9 GiB", "max": "5 GiB"},
                ]
            }
        ),
        ["storage.volumes[0].max: 5 GiB is less than min, 9 GiB"],
    ),
    (
        small(storage={"volumes": [{"mount": "/", "size": "5%", "max": "9 MiB"}]}),
        ["storage.volumes[0].max: 9 MiB is too small: xfs needs 300 MiB"],
    ),
    (
        small(storage={"volumes": [{"mount": "/srv", "size": "5 GiB", "grow": True}]}),
        ["storage.volumes[0].grow: the volume has a size too: give one of the two"],
    ),
    (
        small(storage={"volumes": [{"mount": "/srv", "size": "5 GiB"}] * 2}),
        ["storage.volumes[1].mount: /srv is there twice"],
    ),
    (
        small(storage={"volumes": [{"mount": m, "size": "60%"} for m in ("/srv", "/opt")]}),
        ["storage.volumes: the shares add up to 120%, there are 100%"],
    ),
    (
        small(storage={"volumes": [{"mount": "/srv", "size": "100 MiB"}]}),
        ["storage.volumes[0].size: 100 MiB is too small: xfs needs 300 MiB"],
    ),
    (
        small(storage={"filesystem": "ext4", "volumes": [{"mount": "/srv", "size": 4096}]}),
        ["storage.volumes[0].size: 4 KiB is too small: ext4 needs 64 MiB"],
    ),
    (
        small(storage={"volumes": [{"mount": "/boot", "size": "2 GiB"}]}),
        [f"storage.volumes[0].mount: /boot is a partition: changing it {NOT_YET}"],
    ),
    (
        small(storage={"volumes": [{"mount": "/dev/shm", "size": "2 GiB"}]}),
        ["storage.volumes[0].mount: /dev/shm lies on /dev, which the kernel provides"],
    ),
    (
        small(storage={"volumes": [{"mount": "/etc", "size": "2 GiB"}]}),
        ["storage.volumes[0].mount: /etc belongs on /, which boots with it"],
    ),
    (
        small(storage={"volumes": [{"mount": "/srv/", "size": "2 GiB"}]}),
        ['storage.volumes[0].mount: "/srv/" is not a mount point such as /var/log'],
    ),
    (
        small(storage={"volumes": [{"mount": "/srv/../etc", "size": "2 GiB"}]}),
        ['storage.volumes[0].mount: "/srv/../etc" is not a mount point such as /var/log'],
    ),
    (
        small(storage={"volumes": [{"mount": "/", "options": ["nodev,nosuid"]}]}),
        [
            (
                'storage.volumes[0].options[0]: "nodev,nosuid" is not a mount option: give '
                "each option by "
                "itself in the list"
            )
        ],
    ),
    (
        small(storage={"volumes": [{"mount": "/", "options": ["nodev", "nodev"]}]}),
        ["storage.volumes[0].options[1]: nodev is there twice"],
    ),
    (
        small(storage={"volumes": [{"mount": "/", "options": "nodev"}]}),
        ["storage.volumes[0].options: must be a list, is text"],
    ),
    # encryption
    (
        {**encrypted(), "report": None},
        [
            "report: is empty: give a value or leave the key out",
        ],
    ),
    (
        {key: value for key, value in encrypted().items() if key != "report"},
        ["report: is missing: the recovery key's envelope needs a server that acknowledges it"],
    ),
    (
        encrypted(recovery={"escrow_to": []}),
        ["encryption.recovery.escrow_to: is empty: give at least one"],
    ),
    (
        encrypted(recovery={"escrow_to": [certificate()] * 17}),
        ["encryption.recovery.escrow_to: has 17 entries, at most 16 are taken"],
    ),
    (
        small(encryption={"unlock": "tpm2"}, report=[{"type": "http", "url": "https://a/"}]),
        ["encryption.recovery: is missing: who opens the disks when nothing else does"],
    ),
    (encrypted(fips=1), ["encryption.fips: must be true or false, is a number"]),
    # image
    (small(image={"manifest": []}), ["image.manifest: is empty: give at least one"]),
    (
        small(image={"manifest": "ftp://a/b.json"}),
        ['image.manifest: "ftp://a/b.json" is not a URL such as https://images.example.com/x.json'],
    ),
    (
        small(image={"manifest": "https://a/b c"}),
        ['image.manifest: "https://a/b c" is not a URL: percent-encode what is not plain ASCII'],
    ),
    (
        small(image={"manifest": ["https://a/b", "https://a/b"]}),
        ["image.manifest[1]: https://a/b is there twice"],
    ),
    (
        small(image={}),
        [
            (
                "image.manifest: is missing: where the manifest lies; or give oci, a container by "
                "its digest"
            ),
        ],
    ),
    (
        small(image={"manifest": "oci://registry.example.com/Repo:1"}),
        [
            (
                'image.manifest: "oci://registry.example.com/Repo:1" has the repository "Repo", '
                "must be lower-case letters and digits joined by . _ - and /, at most 255 "
                "characters"
            ),
        ],
    ),
    (
        small(image={"oci": "registry.example.com/repo:latest"}),
        [
            (
                'image.oci: "registry.example.com/repo:latest" has no digest, and a tag may move '
                "between check and install: write registry.example.com/repo@sha256:…"
            ),
        ],
    ),
    (
        small(image={"oci": f"registry.example.com/repo@sha256:{'a' * 63}"}),
        [
            (
                f'image.oci: "oci://registry.example.com/repo@sha256:{"a" * 63}" has the digest '
                f'"sha256:{"a" * 63}", must be sha256: and 64 hexadecimal digits in lower case'
            ),
        ],
    ),
    (
        small(
            image={
                "manifest": "https://images.example.com/x.json",
                "oci": f"registry.example.com/repo@sha256:{'a' * 64}",
            }
        ),
        ["image.oci: is given beside manifest: one image is installed, drop one"],
    ),
    (
        small(storage={"preset": {"name": "own", "extends": "plain", "volumes": [{"ount": "/x"}]}}),
        [
            "storage.preset.volumes[0].mount: is missing: where it is mounted",
            f"storage.preset.volumes[0].size: is missing: {SIZE}",
            "storage.preset.volumes[0].ount: unknown key: did you mean mount?",
        ],
    ),
    # configure
    (small(configure={"timezone": "UTC"}), [f"configure.timezone: {NOT_YET}"]),
    (
        small(configure={"network": {"dhcp": True, "mtu": 9000}}),
        [f"configure.network.mtu: {NOT_YET}"],
    ),
    (
        small(configure={"network": {"dhcp": True, "vlan": 7}}),
        [
            (
                "configure.network.match: is missing: a VLAN belongs to one interface, "
                "give its mac or name"
            )
        ],
    ),
    (
        small(configure={"network": {"dhcp": True, "vlan": 4095, "match": CARD}}),
        ["configure.network.vlan: must be at most 4094, is 4095"],
    ),
    (
        small(configure={"network": [{"dhcp": True, "bond": {}}]}),
        ["configure.network[0].bond.ports: is missing: its interfaces, each by `mac` or `name`"],
    ),
    (
        small(configure={"network": {"dhcp": True, "bond": {"ports": [{}, CARD, CARD]}}}),
        [
            "configure.network.bond.ports[0]: is empty: give its mac or name",
            "configure.network.bond.ports[2]: is there twice",
        ],
    ),
    (
        small(configure={"network": {"dhcp": True, "bond": {"ports": [{"name": "bond0"}]}}}),
        ["configure.network.bond.ports[0]: bond0 is what the bond itself is called"],
    ),
    (
        small(configure={"network": {"dhcp": True, "bond": {"ports": [CARD], "mode": "lacp"}}}),
        [
            (
                'configure.network.bond.mode: "lacp" is not one of active-backup, 802.3ad, '
                "balance-rr, balance-xor, broadcast, balance-tlb, balance-alb"
            )
        ],
    ),
    (
        small(configure={"network": {"dhcp": True, "match": CARD, "bond": {"ports": [CARD]}}}),
        ["configure.network.match: there is a bond too: one of them says which interface is meant"],
    ),
    (
        small(
            configure={
                "network": [
                    {"dhcp": True, "bond": {"ports": [CARD]}},
                    {"dhcp": True, "bond": {"ports": [CARD]}},
                    {"dhcp": True, "bond": {"ports": [{"name": "eth1"}]}},
                    {"dhcp": True, "match": CARD},
                ]
            }
        ),
        [
            (
                "configure.network[0].bond.ports[0]: is in use by another entry: a port has no "
                "addresses of its own"
            ),
            "configure.network[1].bond: is the same as that of an interface before it",
            (
                "configure.network[1].bond.ports[0]: is in use by another entry: a port has no "
                "addresses of its own"
            ),
            "configure.network[2].bond.name: bond0 is another bond before: name it otherwise",
        ],
    ),
    (
        small(
            configure={
                "network": [
                    {"dhcp": True, "vlan": 5, "match": CARD},
                    {"dhcp": True, "vlan": 5, "match": {"name": "eth1"}},
                    {"dhcp": True, "bond": {"name": "vlan5", "ports": [{"name": "eth2"}]}},
                ]
            }
        ),
        [
            "configure.network[1].vlan: 5 is there twice",
            "configure.network[2].bond.name: vlan5 is the name of a VLAN: take another",
        ],
    ),
    (small(configure={"network": []}), ["configure.network: is empty: give at least one"]),
    (
        small(configure={"network": {"dhcp": False}}),
        ["configure.network: has neither dhcp nor addresses: give dhcp: yes or addresses"],
    ),
    (
        small(configure={"network": {"dhcp": "v4"}}),
        ['configure.network.dhcp: "v4" is not one of yes, no, ipv4, ipv6: did you mean ipv4?'],
    ),
    (
        small(configure={"network": {"addresses": ["192.0.2.7/24"]}}),
        [
            (
                "configure.network.match: is missing: addresses belong to one interface, "
                "give its mac or "
                "name"
            )
        ],
    ),
    (
        small(configure={"network": [{"match": {"name": "eth0"}, "addresses": ["192.0.2.7"]}]}),
        [
            (
                'configure.network[0].addresses[0]: "192.0.2.7" is not an address with '
                "prefix such as "
                "192.0.2.7/24"
            )
        ],
    ),
    (
        small(
            configure={
                "network": [
                    {
                        "match": {"name": "eth0"},
                        "addresses": ["192.0.2.7/24"],
                        "gateway": "10.0.0.1",
                    }
                ]
            }
        ),
        ["configure.network[0].gateway: 10.0.0.1 lies in the network of none of the addresses"],
    ),
    (
        small(
            configure={
                "network": [
                    {
                        "match": {"name": "eth0"},
                        "addresses": ["192.0.2.7/24", "192.0.2.7/25"],
                        "gateway": ["192.0.2.1", "192.0.2.2"],
                    }
                ]
            }
        ),
        [
            "configure.network[0].gateway[1]: 192.0.2.2 is a second one of its family",
            "configure.network[0].addresses[1]: 192.0.2.7 is there twice",
        ],
    ),
    (
        small(configure={"network": [{"dhcp": True}, {"match": {"name": "eth0"}, "dhcp": True}]}),
        ["configure.network[0].match: is missing: with several interfaces each needs one"],
    ),
    (
        small(configure={"network": [{"match": {"name": "eth0"}, "dhcp": True}] * 2}),
        ["configure.network[1].match: is the same as that of an interface before it"],
    ),
    (
        small(
            configure={
                "network": [{"match": {"name": "eth0", "mac": "52:54:00:12:34:56"}, "dhcp": True}]
            }
        ),
        [
            (
                "configure.network[0].match.name: there is a mac too: one of them says which "
                "interface is "
                "meant"
            )
        ],
    ),
    (
        small(configure={"network": {"match": {"name": "a" * 16}, "dhcp": True}}),
        [
            (
                'configure.network.match.name: "aaaaaaaaaaaaaaaa" is not an interface name such '
                "as enp1s0"
            )
        ],
    ),
    (
        small(configure={"ssh_authorized_keys": {"root": ["ssh-ed25519 AAAA"]}}),
        [
            (
                'configure.ssh_authorized_keys.root[0]: "ssh-ed25519 AAAA" is not a public '
                "key such as "
                "ssh-ed25519 AAAAC3…"
            )
        ],
    ),
    (
        small(configure={"ssh_authorized_keys": {"Adm!n": [SSH_KEY]}}),
        ['configure.ssh_authorized_keys.Adm!n: "Adm!n" is not an account name such as root'],
    ),
    (
        small(configure={"files": [{"path": "/etc/fstab", "content": ""}]}),
        ["configure.files[0].path: /etc/fstab is written by the installation itself"],
    ),
    (
        small(configure={"files": [{"path": "/run/x", "content": ""}]}),
        ["configure.files[0].path: /run/x would not be there after a reboot"],
    ),
    (
        small(configure={"files": [{"path": "/a", "content": ""}, {"path": "/a", "content": ""}]}),
        ["configure.files[1].path: /a is there twice"],
    ),
    (
        small(configure={"files": [{"path": "/a", "content": "", "mode": "rw-r--r--"}]}),
        [
            (
                'configure.files[0].mode: "rw-r--r--" is not a mode: write octal digits in '
                'quotes, "0644"'
            )
        ],
    ),
    (
        small(configure={"kernel_options": ["root=/dev/sda1", "rd.luks.uuid=x", "a b"]}),
        [
            (
                'configure.kernel_options[0]: "root=/dev/sda1" is the installation\'s to '
                "decide: leave it "
                "out"
            ),
            (
                'configure.kernel_options[1]: "rd.luks.uuid=x" is the installation\'s to '
                "decide: leave it "
                "out"
            ),
            'configure.kernel_options[2]: "a b" is not a kernel option: one word without quotes',
        ],
    ),
    # report
    (
        small(report=[{"type": "foreman", "built": "https://a/?token=s", "faild": "https://a/"}]),
        [
            "report[0].failed: is missing: what `foreman_url('failed')` gives",
            "report[0].faild: unknown key: did you mean failed?",
        ],
    ),
    (
        small(report=[{"type": "foreman", "built": "s://sesame", "failed": 7}]),
        [
            f"report[0].built: is not a URL such as {BUILT}?token=…",
            "report[0].failed: is not text: write it in quotes",
        ],
    ),
    (
        small(report=[{"type": "formann", "url": "https://a/"}]),
        ['report[0].type: "formann" is not one of http, foreman: did you mean foreman?'],
    ),
    (small(report={"type": "http"}), ["report: must be a list, is a mapping"]),
]


@pytest.mark.parametrize(
    ("plan", "problems"), TABLE, ids=[problems[0][:60] for _, problems in TABLE]
)
def test_a_wrong_plan_is_refused_with_what_would_be_right(
    plan: dict[str, Any], problems: list[str]
) -> None:
    text = text_of(plan)
    assert sorted(problems_of(text)) == sorted(problems)


@pytest.mark.parametrize(
    "plan",
    [
        small(),
        encrypted(),
        small(machine={"mac": "52-54-00-12-34-AB", "uuid": "4C4C4544-0046-3510-8052-B4C04F564E31"}),
        small(disks={"count": 2, "where": {"path": "/dev/disk/by-path/pci-*"}}),
        small(storage={"preset": "stig-rhel9", "volumes": [{"mount": "/home", "options": []}]}),
        small(configure={"ssh_authorized_keys": {"on": ['from="10.0.0.0/8",no-pty ' + SSH_KEY]}}),
        small(configure={"network": {"dhcp": "yes"}}),
        small(report=[{"type": "http", "url": "http://[2001:db8::1]:8080/e?a=b"}]),
    ],
)
def test_a_good_plan_has_no_problems(plan: dict[str, Any]) -> None:
    assert problems_of(plan) == []


def test_text_that_yaml_takes_for_something_else_is_asked_for_in_quotes() -> None:
    text = text_of(small()).replace(b"hostname: db01.example.com", b"hostname: 1_000")
    (problem,) = problems_of(text)
    assert (
        problem == 'hostname: write it in quotes, "1_000": bare, YAML reads it as the number 1000'
    )


def test_a_mac_of_decimal_digits_needs_no_quotes() -> None:
    text = text_of(small()).replace(b"'52:54:00:12:34:56'", b"10:20:30:40:50:59")
    assert parse(text).machine.mac == "10:20:30:40:50:59"


def test_bare_yes_and_no_are_read_where_a_choice_is_spelled_that_way() -> None:
    text = text_of(small()) + b"configure: {network: {dhcp: yes}}\n"
    (interface,) = parse(text).configure.network
    assert (interface.dhcp, interface.match.everything) == ("yes", True)


def test_a_single_value_stands_for_a_list_of_one() -> None:
    where = {"transport": "nvme", "size": "> 1 GB", "serial": "A", "path": "/dev/vda"}
    one = parse(text_of(small(disks={"count": 1, "where": where})))
    many = {key: [value] for key, value in where.items()}
    assert parse(text_of(small(disks={"count": 1, "where": many}))) == one


def test_no_problem_quotes_a_token() -> None:
    for token in ("sesame sesame", 20261122, ["sesame"], {"sesame": 1}, "(hidden)"):
        plan = small(report=[{"type": "http", "url": "https://a/", "token": token}])
        (problem,) = problems_of(plan)
        assert problem.startswith("report[0].token: is not ")
        assert "sesame" not in problem
        assert "20261122" not in problem
