"""The templates of integrations/foreman, rendered by Ruby and read by our own loader.

Where `BEDPLATE_SAFEMODE` names the lib directory of the safemode gem, the gem judges them; without
it, which is how CI runs, a check of ours of the same rules does (render.rb).
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.find import CommandLine
from agent.foreman.address import Server, configured, is_unattended
from agent.foreman.order import kexec_order
from agent.plan.model import Plan
from agent.plan.parse import parse
from agent.plan.report import ForemanReport, HttpReport
from qemu.site import Keeper
from tests.unit.plan import plans

FOLDER = Path(__file__).parents[3] / "integrations/foreman"
RENDER = Path(__file__).with_name("render.rb")
TOKEN = "0b6c7c1e-6d6e-4f43-9a4e-6a2f7e0c2b11"
ID = "0b6c7c1e-6d6e-4000-8000-000000000042"
FOREMAN = "https://foreman.example.com"
IMAGE = "https://images.example.com/debian13.json"
PRINT = plans.THUMBPRINT
DHCP = {"dhcp_boot_mode?": True, "dns_servers": ["192.0.2.53"], "cidr": 24, "gateway": "192.0.2.1"}
STATIC = {**DHCP, "dhcp_boot_mode?": False, "mask": "255.255.255.0"}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> str:
    return Keeper.of(tmp_path_factory.mktemp("escrow")).certificate


def scope(params: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """Return what Foreman knows of a host; `changes` are of its provisioning interface."""
    nic = {"mac": "52:54:00:12:34:56", "ip": "192.0.2.7", "subnet": DHCP, "virtual?": False}
    return {
        "foreman_url": FOREMAN,
        "unattended_url": FOREMAN,
        "token": TOKEN,
        "params": {"bedplate_manifest": IMAGE, **(params or {})},
        "host": {
            "id": 42,
            "name": "db01.example.com",
            "shortname": "db01",
            "mac": "52:54:00:12:34:56",
            "provision_interface": {**nic, **changes},
        },
    }


class Ruby:
    """One Ruby for all templates: starting it takes longer than rendering."""

    def __init__(self) -> None:
        names = ("PATH", "BEDPLATE_SAFEMODE")
        self._process = subprocess.Popen(
            ["ruby", RENDER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"LANG": "C.UTF-8", **{n: os.environ[n] for n in names if n in os.environ}},
        )

    def answer(self, template: Path, of: dict[str, Any]) -> dict[str, str]:
        """Return what came of a template: its text, or an error."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"template": str(template), "scope": of}) + "\n")
        self._process.stdin.flush()
        answer: dict[str, str] = json.loads(self._process.stdout.readline())
        return answer

    def stop(self) -> None:
        self._process.communicate()


RUBY: list[Ruby] = []


@pytest.fixture(scope="module", autouse=True)
def ruby() -> Iterator[None]:
    RUBY.append(Ruby())
    yield
    RUBY.pop().stop()


def rendered(template: str, of: dict[str, Any]) -> str:
    answer = RUBY[0].answer(FOLDER / f"{template}.erb", of)
    assert "text" in answer, answer
    return answer["text"]


def plan(of: dict[str, Any]) -> Plan:
    return parse(rendered("bedplate_plan", of).encode())


def refused(of: dict[str, Any]) -> str:
    answer = RUBY[0].answer(FOLDER / "bedplate_plan.erb", of)
    assert "error" in answer, answer
    return answer["error"]


# --- the plan ---


def test_the_smallest_host_has_a_plan_that_our_loader_takes() -> None:
    found = plan(scope())
    assert str(found.id) == ID
    assert found.machine.mac == "52:54:00:12:34:56"
    assert (found.hostname, found.disks.count) == ("db01.example.com", 1)
    assert found.storage.preset.name == "plain"
    assert found.image.manifest == (IMAGE,)
    assert (found.disks.erase, found.finish, found.encryption) == ("refuse-foreign", "reboot", None)
    (report,) = found.report
    assert isinstance(report, ForemanReport)
    assert report.built.text == f"{FOREMAN}/unattended/built?token={TOKEN}"
    assert report.failed.text == f"{FOREMAN}/unattended/failed?token={TOKEN}"
    assert report.config_reports is None
    assert found.configure.network[0].dhcp == "yes"


def test_the_token_is_in_the_two_addresses_and_nowhere_else() -> None:
    text = rendered("bedplate_plan", scope())
    assert text.count(TOKEN) == 2
    shown = plan(scope()).model_dump_json()
    assert TOKEN not in shown
    other = {**scope(), "token": "1b6c7c1e-6d6e-4f43-9a4e-6a2f7e0c2b11"}
    assert plan(other).id != plan(scope()).id


def test_every_parameter_reaches_its_place(certificate: str) -> None:
    of = scope(
        {
            "bedplate_manifest": [IMAGE, "https://mirror.example.com/debian13.json"],
            "bedplate_image_token": "image-token",
            "bedplate_disks": "2",
            "bedplate_disks_where": {"transport": ["nvme"], "size": ">= 400 GB"},
            "bedplate_erase": "any",
            "bedplate_preset": "stig-rhel9",
            "bedplate_volumes": [{"mount": "/var/lib/pgsql", "size": "20%"}],
            "disk_enc_tang_servers": ["http://10.0.0.7", "http://10.0.0.8"],
            "bedplate_tang_thumbprints": [PRINT, PRINT],
            "bedplate_escrow_certificates": certificate,
            "bedplate_fips": True,
            "bedplate_report_url": "https://deploy.example.com/v1/events",
            "bedplate_report_token": "report-token",
            "bedplate_config_reports_user": "bedplate",
            "bedplate_config_reports_token": "pat",
            "bedplate_kernel_options": "console=tty0 console=ttyS0,115200",
            "bedplate_files": [{"path": "/etc/motd", "content": "hello\n"}],
            "bedplate_finish": "poweroff",
        }
    )
    of["host"]["ssh_authorized_keys"] = [plans.SSH_KEY]
    found = plan(of)
    assert len(found.image.manifest) == 2
    assert found.image.token is not None
    assert found.image.token.text == "image-token"
    assert (found.disks.count, found.disks.erase) == (2, "any")
    assert found.disks.where.transport == ("nvme",)
    assert found.storage.preset.name == "stig-rhel9"
    assert found.storage.volumes[0].mount == "/var/lib/pgsql"
    assert found.encryption is not None
    assert str(found.encryption.unlock) == "tpm2 and 1 of tang"
    assert [server.url for server in found.encryption.tang] == [
        "http://10.0.0.7",
        "http://10.0.0.8",
    ]
    assert found.encryption.fips is True
    http, foreman = found.report
    assert isinstance(http, HttpReport)
    assert http.token is not None
    assert http.token.text == "report-token"
    assert isinstance(foreman, ForemanReport)
    assert foreman.config_reports is not None
    assert foreman.config_reports.url == f"{FOREMAN}/api/v2/config_reports"
    assert foreman.config_reports.host == "db01.example.com"
    assert found.configure.kernel_options == ("console=tty0", "console=ttyS0,115200")
    assert found.configure.files[0].content == "hello\n"
    assert list(found.configure.ssh_authorized_keys) == ["root"]
    assert found.finish == "poweroff"


def test_one_tang_server_as_text_is_honoured_as_foremans_own_snippet_does(certificate: str) -> None:
    found = plan(
        scope(
            {
                "disk_enc_tang_servers": "http://10.0.0.7",
                "bedplate_tang_thumbprints": PRINT,
                "bedplate_escrow_certificates": [certificate],
                "bedplate_report_url": "https://deploy.example.com/v1/events",
            }
        )
    )
    assert found.encryption is not None
    assert str(found.encryption.unlock) == "tpm2 and tang"
    assert found.encryption.tang[0].thumbprint == PRINT


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"bedplate_manifest": []}, "bedplate_manifest is missing"),
        ({"disk_enc_passphrase": "linux"}, 'disk_enc_passphrase is "linux"'),
        ({"disk_enc_tang_servers": "http://10.0.0.7"}, "one thumbprint for each"),
        (
            {"disk_enc_tang_servers": ["http://a"], "bedplate_tang_thumbprints": [PRINT]},
            "bedplate_escrow_certificates is missing",
        ),
        (
            {"bedplate_unlock": "tpm2", "bedplate_escrow_certificates": "x"},
            "bedplate_report_url is missing",
        ),
        (
            {"bedplate_config_reports_user": "bedplate"},
            "host parameter bedplate_config_reports_token is missing",
        ),
    ],
)
def test_what_would_be_refused_later_is_refused_where_it_can_be_mended(
    params: dict[str, Any], words: str
) -> None:
    assert words in refused(scope(params))


def test_a_partition_table_for_anaconda_is_refused_by_name() -> None:
    of = {**scope(), "layout": "zerombr\nclearpart --all --initlabel\nautopart\n"}
    assert "the partition table is not one of Bedplate" in refused(of)


def test_a_partition_table_of_the_operators_own_is_taken_as_it_is() -> None:
    layout = "preset: stig-rhel9\nwithout: [/home]\nfilesystem: ext4\n"
    found = plan({**scope(), "layout": layout})
    assert (found.storage.filesystem, found.storage.without) == ("ext4", ("/home",))


def test_a_static_subnet_becomes_static_addresses_and_ipv6_too() -> None:
    found = plan(scope(subnet=STATIC))
    (interface,) = found.configure.network
    assert [str(address) for address in interface.addresses] == ["192.0.2.7/24"]
    assert [str(address) for address in interface.gateway] == ["192.0.2.1"]
    assert [str(address) for address in interface.dns] == ["192.0.2.53"]
    six = {**STATIC, "cidr": 64, "gateway": "2001:db8::1", "dns_servers": []}
    found = plan(scope(subnet=None, subnet6=six, ip=None, ip6="2001:db8::7"))
    assert [str(address) for address in found.configure.network[0].addresses] == ["2001:db8::7/64"]


def test_without_tokens_the_order_needs_an_id_of_its_own() -> None:
    assert "set host parameter bedplate_plan_id" in refused({**scope(), "token": None})
    of = {**scope({"bedplate_plan_id": TOKEN}), "token": None}
    found = plan(of)
    assert str(found.id) == TOKEN
    (report,) = found.report
    assert isinstance(report, ForemanReport)
    assert report.built.text == f"{FOREMAN}/unattended/built"


@settings(max_examples=15, deadline=None)
@given(st.lists(st.sampled_from(["00", "10", "20", "32", "50", "5e", "ae", "0e"]), min_size=5,
                max_size=5))  # fmt: skip
def test_a_mac_of_digits_is_no_number(parts: list[str]) -> None:
    mac = ":".join(["02", *parts])
    of = scope(mac=mac)
    assert plan(of).machine.mac == mac


# --- the boot loaders ---


def options(line: str) -> CommandLine:
    return CommandLine.parse(line.split("vmlinuz", 1)[1])


@pytest.mark.parametrize("subnet", [DHCP, STATIC])
def test_grub_names_the_plan_with_its_token_and_the_card(subnet: dict[str, Any]) -> None:
    text = rendered("bedplate_pxegrub2", scope({"kernelcmd": "console=ttyS0"}, subnet=subnet))
    (line,) = [line for line in text.splitlines() if line.strip().startswith("linux ")]
    assert "&" not in line.replace("\\&", ""), "GRUB would end the command there"
    found = options(line.replace("\\&", "&"))
    url = found.value("bedplate.plan") or ""
    assert is_unattended(url)
    assert f"token={TOKEN}" in url
    assert found.value("BOOTIF") == "01-52-54-00-12-34-56"
    assert found.value("console") == "ttyS0"
    static = "192.0.2.7::192.0.2.1:255.255.255.0:db01::none"
    assert found.value("ip") == (static if subnet is STATIC else None)
    assert found.value("nameserver") == ("192.0.2.53" if subnet is STATIC else None)
    assert "initrd /boot/bedplate/initrd.img" in text


def test_pxelinux_adds_the_card_by_itself() -> None:
    text = rendered("bedplate_pxelinux", scope({"bedplate_boot_path": "boot/live"}))
    (line,) = [line for line in text.splitlines() if line.strip().startswith("APPEND")]
    assert "initrd=boot/live/initrd.img" in line
    assert f"bedplate.plan={FOREMAN}/unattended/provision?token={TOKEN}" in line
    assert "IPAPPEND 2" in text
    assert "TIMEOUT 30" in text


def test_ipxe_fetches_the_live_image_by_http() -> None:
    text = rendered(
        "bedplate_ipxe", scope({"bedplate_boot_url": "https://images.example.com/live"})
    )
    assert text.startswith("#!ipxe\n")
    assert "kernel https://images.example.com/live/vmlinuz initrd=initrd.img" in text
    assert "BOOTIF=01-${netX/mac:hexhyp}" in text
    assert f"unattended/provision?token={TOKEN}" in text
    assert text.endswith("boot\n")


def test_the_kexec_order_is_one_that_the_agent_believes() -> None:
    text = rendered("bedplate_kexec", scope({"bedplate_boot_url": "https://images.example.com"}))
    order = kexec_order(text.encode(), Server(FOREMAN))
    assert order.problem == ""
    assert order.plan is not None
    assert order.plan.text == f"{FOREMAN}/unattended/provision?token={TOKEN}"
    document = json.loads(text)
    assert set(document) == {"kernel", "initram", "append", "extra", "plan_url"}
    del document["plan_url"]
    again = kexec_order(json.dumps(document).encode(), Server(FOREMAN))
    assert again.plan == order.plan


@pytest.mark.parametrize("loader", ["pxegrub2", "pxelinux"])
def test_an_unknown_host_is_booted_to_be_discovered(loader: str) -> None:
    text = rendered(f"bedplate_discovery_{loader}", scope())
    assert configured(options(text.replace("\n", " "))) == Server(FOREMAN)


# --- what holds for all of them ---


@pytest.mark.parametrize("template", sorted(path.stem for path in FOLDER.glob("*.erb")))
def test_a_template_says_what_it_is(template: str) -> None:
    text = (FOLDER / f"{template}.erb").read_text()
    head = yaml.safe_load(text[len("<%#") : text.index("-%>")])
    assert {"kind", "name", "model", "description"} <= set(head)
    assert head["model"] == ("Ptable" if head["kind"] == "ptable" else "ProvisioningTemplate")
    assert (head.get("snippet") is True) is (head["kind"] == "snippet")
    assert rendered(template, scope({"bedplate_boot_url": "https://i.example.com"}))


@pytest.mark.parametrize(
    "code",
    [
        "<% h = {} ; h['a'] = 1 -%>",
        "<% begin ; 1 ; rescue ; 2 ; end -%>",
        "<%= ['a'].map(&:upcase) -%>",
        "<%= File.read('/etc/passwd') -%>",
        "<%= `id` -%>",
        "<%= system('id') -%>",
        "<%= @host.destroy -%>",
        "<%= $stdout -%>",
        "<%= 'a' =~ /b/ -%>",
        "<%= defined?(x) -%>",
        "<%= 'a'.send('upcase') -%>",
    ],
)
def test_the_judge_refuses_what_safemode_refuses(tmp_path: Path, code: str) -> None:
    (tmp_path / "bad.erb").write_text(code + "\n")
    (tmp_path / "bedplate_storage.erb").write_text("x\n")
    assert "error" in RUBY[0].answer(tmp_path / "bad.erb", scope())
