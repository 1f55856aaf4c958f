"""systemd-networkd itself reads what we write: it complains of every line that it does not know.

In a network namespace of its own, with a /run of its own, so that nothing of the host is touched.
"""

from __future__ import annotations

import os
import re
import subprocess
import threading
from pathlib import Path

import pytest

from agent.network.translate import translate
from agent.plan.configure import Configure
from agent.target.initrd_network import initrd_network
from agent.target.networkd import networkd

NETWORKD = Path("/lib/systemd/systemd-networkd")
COMPLAINT = re.compile(r"/run/systemd/network/.*(unknown|invalid|fail|ignor)", re.IGNORECASE)
EVERYTHING = (
    "ifname=boot0:52:54:00:12:34:56 BOOTIF=01-52-54-00-12-34-57 fdi.initnet=bootif "
    "fdi.dns_search=a.example rd.peerdns=0 nameserver=[2001:db8::53] nameserver=192.0.2.53 "
    "bond=bond0:eth0,eth1:mode=802.3ad,miimon=50,lacp_rate=1,xmit_hash_policy=layer3+4,updelay=100,"
    "downdelay=200,min_links=1,ad_select=stable,num_grat_arp=2,resend_igmp=1,"
    "all_slaves_active=0:9000 "
    "bond=bond1:eth2,eth3:mode=1,primary=eth3,arp_interval=100,arp_ip_target=192.0.2.1;192.0.2.2,"
    "fail_over_mac=active,arp_validate=all,arp_all_targets=any,primary_reselect=always "
    "vlan=bond0.0010:bond0 ip=192.0.2.5::198.51.100.1:24:x:bond0:none:1400 "
    "ip=[2001:db8::5]::[fe80::1]:64::eth4:none ip=eth6:link-local ip=eth7:either6 "
    "rd.route=10.0.0.0/8:192.0.2.9 bridge=br0:eth5"
)
SCRIPT = """\
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/systemd/network /run/systemd/netif/links /run/systemd/netif/leases
mkdir -p /run/systemd/netif/lldp
cp "$1"/* /run/systemd/network/
chmod 644 /run/systemd/network/*
chown -R systemd-network:systemd-network /run/systemd/netif
exec "$2"
"""


def said_of(directory: Path) -> tuple[list[str], list[str]]:
    """Let networkd load the files of a directory; return what it said, and its complaints."""
    argv: list[str | Path] = [
        "unshare",
        "-mn",
        "--propagation",
        "private",
        "sh",
        "-ec",
        SCRIPT,
        "sh",
        directory,
        NETWORKD,
    ]
    environment = {**os.environ, "SYSTEMD_LOG_LEVEL": "debug", "SYSTEMD_LOG_TARGET": "console"}
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        # It would run for ever: after its files it looks at the links.
        patience = threading.Timer(60, process.kill)
        patience.start()
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line.rstrip())
            if ": Saved new link" in line:
                break
        patience.cancel()
        process.terminate()
    return lines, [line for line in lines if COMPLAINT.search(line)]


pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: namespaces"),
    pytest.mark.skipif(not NETWORKD.exists(), reason="systemd-networkd is not installed"),
]


def test_networkd_knows_every_line_of_ours(tmp_path: Path) -> None:
    found = translate(EVERYTHING)
    assert found.problems == ()
    for name, text in found.files.items():
        (tmp_path / name).write_text(text)
    said, complaints = said_of(tmp_path)
    assert complaints == []
    for made in ("bond0.0010", "bond0", "bond1", "br0"):
        assert any(line.startswith(f"{made}: ") for line in said), said


def test_networkd_knows_every_line_of_an_installed_system(tmp_path: Path) -> None:
    bond = {"ports": [{"mac": "52:54:00:12:34:56"}, {"name": "eth1"}], "mode": "802.3ad"}
    given = [
        {"bond": bond, "vlan": 42, "addresses": ["192.0.2.7/24"], "gateway": "192.0.2.1"},
        {"bond": bond, "vlan": 43, "dhcp": True},
        {"match": {"name": "eth2"}, "dhcp": "ipv4", "dns": ["192.0.2.53"]},
        {"match": {"name": "eth2"}, "vlan": 44, "dhcp": "ipv6"},
    ]
    for file in networkd(Configure.model_validate({"network": given}).network):
        if file.path.suffix in {".link", ".network", ".netdev"}:
            (tmp_path / file.path.name).write_bytes(file.content)
    said, complaints = said_of(tmp_path)
    assert complaints == []
    for made in ("bond0", "vlan42", "vlan43", "vlan44"):
        assert any(line.startswith(f"{made}: ") for line in said), said


def test_a_line_that_networkd_does_not_know_would_be_seen(tmp_path: Path) -> None:
    text = "[Match]\nName=eth0\n\n[Network]\nDHCP=perhaps\n"
    (tmp_path / "60-eth0.network").write_text(text)
    assert any("perhaps" in line for line in said_of(tmp_path)[1])


# What the initrd of an installed system does: systemd reads the kernel's command line, and udev
# names what appears. A bond is a link with the MAC address of its port; this kernel may have none.
NAMES = """\
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/systemd/network /run/udev
mount -t tmpfs -o mode=755 tmpfs /etc/systemd/network
cp "$1"/* /etc/systemd/network/
SYSTEMD_PROC_CMDLINE="$2" "$3"
ip link add name bond0 type veth peer name port0
ip link set bond0 address 52:54:00:12:34:56
udevadm test-builtin net_setup_link /sys/class/net/bond0
"""
GENERATOR = Path("/lib/systemd/systemd-network-generator")


@pytest.mark.skipif(not GENERATOR.exists(), reason="systemd-network-generator is not installed")
@pytest.mark.parametrize(("kept", "name"), [(True, "bond0"), (False, "enp0s6")])
def test_a_bond_keeps_its_name_whatever_the_command_line_calls_its_port(
    tmp_path: Path, kept: bool, name: str
) -> None:
    mac = "52:54:00:12:34:56"
    given = {"bond": {"ports": [{"mac": mac}]}, "dhcp": "ipv4"}
    network = Configure.model_validate({"network": given}).network
    for file in networkd(network):
        if file.path.suffix in {".network", ".netdev"} or (kept and file.path.suffix == ".link"):
            (tmp_path / file.path.name).write_bytes(file.content)
    options = " ".join(initrd_network(network, {mac: "enp0s6"}))
    done = subprocess.run(
        ["unshare", "-mn", "--propagation", "private", "sh", "-ec", NAMES, "sh", tmp_path, options,
         GENERATOR],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    said = done.stdout.splitlines() + done.stderr.splitlines()
    assert f"ID_NET_NAME={name}" in said, said
