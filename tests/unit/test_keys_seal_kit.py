"""What the installed system gets to seal itself with, and when it gets nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from agent.keyslots import SEALED, UNLOCK
from agent.layout.model import FileSystem, Layout, Luks, VolumeGroup
from agent.pin import sss_config
from agent.plan.encryption import Encryption, Tpm2
from agent.plan.model import Plan
from agent.plan.report import HttpReport
from agent.plan.unlock import parse_policy
from agent.report.event import Event
from agent.secret import Secret
from agent.target.kit import Kit, seal
from tests.unit.fakes_keys import advertisement

A = advertisement("http://10.0.0.1:7500")
TOKEN = Secret("token-0123456789")
URL = "https://deploy.example.com/v1/events?of=a%22b"


def layout(*, encrypted: bool = True) -> Layout:
    nowhere = FileSystem(Path("/dev/x"), "UUID=x", "/boot", "ext4", "x", "boot", ())
    luks = Luks(Path("/dev/md/root"), UUID(int=6), "cr_root", "root") if encrypted else None
    return Layout((), (), luks, VolumeGroup("vg", Path("/dev/x"), 0, ()), nowhere, ())


def plan(words: str = "tpm2 and tang", when: str = "first-boot", token: Any = TOKEN) -> Plan:
    encryption: Any = {
        "unlock": parse_policy(words),
        "tpm2": Tpm2.model_validate({"pcrs": (7,), "seal": when}),
    }
    whole: Any = {
        "id": UUID(int=5),
        "encryption": Encryption.model_construct(**encryption),
        "report": (HttpReport(type="http", url=URL, token=token),),
    }
    return Plan.model_construct(**whole)


def files(kit: Kit) -> dict[str, str]:
    return {str(file.path): file.content.decode() for file in kit.files}


def test_the_final_binding_is_the_provisional_one_with_registers() -> None:
    kit = seal.kit(plan(), "CZ1234", layout(), [A])
    config = json.loads(files(kit)["/etc/bedplate/seal.json"])
    assert (config["from"], config["to"]) == (UNLOCK, SEALED)
    assert config["device"] == f"/dev/disk/by-uuid/{UUID(int=6)}"
    assert config["config"] == json.loads(sss_config(parse_policy("tpm2 and tang"), [A], (7,)))
    assert config["config"]["pins"]["tpm2"][0]["pcr_ids"] == "7"


def test_the_event_is_complete_but_for_its_time() -> None:
    kit = seal.kit(plan(), 'CZ "1234"', layout(), [A])
    event = json.loads(files(kit)["/etc/bedplate/seal.json"])["event"]
    parsed = Event.from_json(json.dumps({**event, "time": 1}))
    assert (parsed.plan, parsed.machine, parsed.step) == (str(UUID(int=5)), 'CZ "1234"', "seal")


def test_url_and_token_are_in_a_file_of_root_s_and_nowhere_else() -> None:
    kit = seal.kit(plan(), "m", layout(), [A])
    modes = {str(file.path): file.mode for file in kit.files}
    (sink,) = (path for path in modes if path.endswith(".curl"))
    assert modes[sink] == modes["/etc/bedplate/seal.json"] == 0o600
    texts = files(kit)
    assert texts.pop(sink).splitlines() == [
        f'url = "{URL}"',
        f'header = "Authorization: Bearer {TOKEN.text}"',
    ]
    assert all(TOKEN.text not in text and URL not in text for text in texts.values())


def test_quotes_and_backslashes_stay_inside_curl_s_quotes() -> None:
    kit = seal.kit(plan(token=Secret('a"b\\c')), "m", layout(), [A])
    (text,) = (text for path, text in files(kit).items() if path.endswith(".curl"))
    assert 'header = "Authorization: Bearer a\\"b\\\\c"' in text


def test_the_authorities_of_the_live_image_go_along() -> None:
    kit = seal.kit(plan(), "m", layout(), [A], b"PEM")
    texts = files(kit)
    assert texts["/etc/bedplate/report-ca.pem"] == "PEM"
    assert 'cacert = "/etc/bedplate/report-ca.pem"' in texts["/etc/bedplate/seal.d/0.curl"]


@pytest.mark.parametrize(
    ("words", "when", "encrypted"),
    [("tang", "first-boot", True), ("tpm2 and tang", "now", True), ("tpm2", "first-boot", False)],
)
def test_nothing_is_left_behind_where_nothing_is_to_be_sealed(
    words: str, when: str, encrypted: bool
) -> None:
    assert seal.kit(plan(words, when), "m", layout(encrypted=encrypted), [A]) == Kit()


def test_the_script_never_skips_a_check_of_clevis_or_cryptsetup() -> None:
    script = files(seal.kit(plan(), "m", layout(), [A]))["/usr/local/sbin/bedplate-seal"]
    commands = [line for line in script.splitlines() if not line.lstrip().startswith("#")]
    for line in commands:
        assert "regen" not in line
        if re.search(r"\b(clevis|cryptsetup) ", line):
            assert not re.search(r" (-y|-q|-f|--batch-mode)\b", line), line
