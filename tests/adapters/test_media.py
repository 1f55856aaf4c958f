"""Boot media made by the real programs, from small files in place of a kernel and an initrd."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agent.adapters.command import run
from agent.cli import main
from agent.media.fat import Volume
from agent.media.tools import Tools
from agent.payload import gpt
from agent.payload.sign import keygen
from image import forms

ROOT = Path(__file__).parents[2]
PLAN = ROOT / "docs/examples/one-disk.yaml"
TOOLS = Tools(run)
LOADERS = ("EFI/BOOT/BOOTX64.EFI", "EFI/BOOT/grubx64.efi")


@dataclass(frozen=True)
class Built:
    """What `image/build forms` leaves."""

    directory: Path

    def __getitem__(self, form: str) -> Path:
        return self.directory / f"bedplate.{form}"


def build(directory: Path, *, shim: bool = True, content: str = "equal") -> Built:
    directory.mkdir(parents=True)
    for name in ("bedplate.efi", "vmlinuz", "initrd.img"):
        (directory / name).write_bytes(name.encode() * 5000)
    loaders = dict.fromkeys(LOADERS, directory / "vmlinuz") if shim else {}
    forms.write(ROOT, directory / "work", directory, loaders, content)
    return Built(directory)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(tmp_path_factory.mktemp("media") / "live")


def media(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["media", *map(str, arguments)])


def done(*arguments: str | Path) -> Result:
    result = media(*arguments)
    assert result.exit_code == 0, result.output
    return result


def table(image: Path) -> gpt.Table:
    with image.open("rb") as stream:
        return gpt.parse(stream.read(gpt.HEAD))


def partition(image: Path, number: int) -> Volume:
    return Volume(image, table(image).partitions[number - 1].start, TOOLS)


def extracted(iso: Path, name: str, tmp_path: Path) -> bytes:
    out = tmp_path / "extracted"
    run("xorriso", "-osirrox", "on", "-indev", iso, "-extract", f"/{name}", out)
    return out.read_bytes()


def on_fat(volume: Volume, name: str) -> bytes:
    argv = ["mtype", "-i", volume.drive, f"::{name}"]
    return subprocess.run(argv, check=True, capture_output=True).stdout


def digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def esp_digest(image: Path) -> str:
    esp = table(image).esp
    assert esp is not None
    with image.open("rb") as stream:
        stream.seek(esp.start)
        return hashlib.sha256(stream.read(esp.size)).hexdigest()


# --- what the build leaves ---


@pytest.mark.parametrize("form", ["iso", "raw"])
def test_equal_input_gives_equal_bytes(built: Built, tmp_path: Path, form: str) -> None:
    again = build(tmp_path / "again")
    os.utime(again.directory / "vmlinuz", (1, 1))
    assert digest(again[form]) == digest(built[form])


@pytest.mark.parametrize("form", ["iso", "raw"])
def test_other_input_gives_other_ids(built: Built, tmp_path: Path, form: str) -> None:
    other = build(tmp_path / "other", content="other")
    ours, theirs = table(built[form]), table(other[form])
    assert ours.guid != theirs.guid
    assert {each.partuuid for each in ours.partitions}.isdisjoint(
        each.partuuid for each in theirs.partitions
    )


@pytest.mark.parametrize("form", ["iso", "raw"])
def test_another_program_finds_no_fault_in_the_partition_table(built: Built, form: str) -> None:
    assert "No problems found" in run("sgdisk", "--verify", built[form])


def test_el_torito_and_the_partition_table_show_the_same_esp(built: Built) -> None:
    told = run("xorriso", "-indev", built["iso"], "-report_el_torito", "plain")
    line = next(line for line in told.splitlines() if line.startswith("El Torito boot img :"))
    esp = table(built["iso"]).esp
    assert esp is not None
    assert "UEFI" in line
    assert int(line.split()[-1]) * 2048 == esp.start
    assert esp.size <= 32 << 20, "El Torito counts 65535 sectors of 512 bytes"


def test_what_a_loader_starts_lies_where_it_looks(built: Built, tmp_path: Path) -> None:
    kernel = (built.directory / "vmlinuz").read_bytes()
    assert extracted(built["iso"], "vmlinuz", tmp_path) == kernel
    assert on_fat(partition(built["raw"], 1), "vmlinuz") == kernel
    for form, number in (("iso", 2), ("raw", 1)):
        assert on_fat(partition(built[form], number), LOADERS[0]) == kernel
        script = on_fat(partition(built[form], number), "EFI/debian/grub.cfg").decode()
        assert "systemd.gpt_auto=no" in script
        assert "@" not in script


def test_without_a_loader_the_uki_is_what_firmware_starts(tmp_path: Path) -> None:
    owned = build(tmp_path / "owned", shim=False)
    uki = (owned.directory / "bedplate.efi").read_bytes()
    for form, number in (("iso", 2), ("raw", 1)):
        assert on_fat(partition(owned[form], number), LOADERS[0]) == uki


# --- bedplate media ---


@pytest.mark.parametrize("form", ["iso", "raw"])
def test_a_medium_for_one_host_boots_as_the_one_it_was_made_from(
    built: Built, tmp_path: Path, form: str
) -> None:
    out = tmp_path / f"host.{form}"
    done("--plan", PLAN, built[form], out)
    assert esp_digest(out) == esp_digest(built[form])
    before, after = table(built[form]), table(out)
    assert after.guid == before.guid
    assert [each.partuuid for each in after.partitions] == [
        each.partuuid for each in before.partitions
    ]
    assert "No problems found" in run("sgdisk", "--verify", out)


def test_what_is_given_lies_under_the_names_the_live_image_looks_for(
    built: Built, tmp_path: Path
) -> None:
    keygen(tmp_path / "mine.key", tmp_path / "mine.pub")
    plan = tmp_path / "db01.yaml"
    plan.write_bytes(PLAN.read_bytes())
    (tmp_path / "db01.yaml.sig").write_bytes(b"s" * 64)
    key = tmp_path / "mine.pub"
    given: tuple[str | Path, ...] = ("--plan", plan, "--key", key, "--plan-key", key)
    for form in ("iso", "raw"):
        done(*given, built[form], tmp_path / f"host.{form}")
    wanted = {
        "plan.yaml": plan.read_bytes(),
        "plan.yaml.sig": b"s" * 64,
        "keys/mine.pub": key.read_bytes(),
        "plan-keys/mine.pub": key.read_bytes(),
    }
    for number, (name, content) in enumerate(wanted.items()):
        scratch = tmp_path / str(number)
        scratch.mkdir()
        assert extracted(tmp_path / "host.iso", name, scratch) == content
        assert on_fat(partition(tmp_path / "host.raw", 2), name) == content


def test_kernel_options_reach_the_loader_of_either_form(built: Built, tmp_path: Path) -> None:
    options = "ip=dhcp vlan=v7.7:eth0 bedplate.server=http://[2001:db8::1]/"
    for form in ("iso", "raw"):
        done("--cmdline", options, built[form], tmp_path / f"host.{form}")
    script = f"set extra='{options}'\n".encode()
    assert extracted(tmp_path / "host.iso", "bedplate.cfg", tmp_path) == script
    assert on_fat(partition(tmp_path / "host.raw", 1), "bedplate.cfg") == script


def test_a_raw_image_grows_to_what_it_carries(built: Built, tmp_path: Path) -> None:
    image = tmp_path / "os.json"
    image.write_text("{}")
    image.with_name("os.json.sig").write_bytes(b"s" * 64)
    payload = tmp_path / "os.tar.zst"
    with payload.open("wb") as stream:
        stream.truncate(100 << 20)
    out = tmp_path / "host.raw"
    done("--plan", PLAN, "--image", image, built["raw"], out)
    assert out.stat().st_size > built["raw"].stat().st_size + (30 << 20)
    assert partition(out, 2).names("/images") == {"os.json", "os.json.sig", "os.tar.zst"}
    assert partition(out, 2).names("/") >= {"readme.txt", "plan.yaml"}, "what was there stays"


def test_json_tells_what_was_added(built: Built, tmp_path: Path) -> None:
    out = tmp_path / "host.iso"
    told = json.loads(done("--plan", PLAN, "--json", built["iso"], out).output)
    assert told["files"] == ["plan.yaml"]
    assert told["size"] == out.stat().st_size


# --- refusals: nothing is written ---


def refused(tmp_path: Path, status: int, *arguments: str | Path) -> str:
    before = set(tmp_path.iterdir())
    result = media(*arguments)
    assert result.exit_code == status, result.output
    assert set(tmp_path.iterdir()) == before, "nothing is left behind"
    return result.output


def test_a_wrong_plan_is_refused(built: Built, tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text("version: 1\n")
    assert "hostname" in refused(tmp_path, 3, "--plan", plan, built["iso"], tmp_path / "x.iso")


@pytest.mark.parametrize("option", ["--key", "--plan-key", "--ca"])
def test_a_private_key_does_not_go_on_a_medium(built: Built, tmp_path: Path, option: str) -> None:
    keygen(tmp_path / "mine.key", tmp_path / "mine.pub")
    said = refused(tmp_path, 3, option, tmp_path / "mine.key", built["iso"], tmp_path / "x.iso")
    assert "holds a private key" in said


def test_a_certificate_must_be_one(built: Built, tmp_path: Path) -> None:
    text = tmp_path / "ca.pem"
    text.write_text("not one\n")
    said = refused(tmp_path, 3, "--ca", text, built["raw"], tmp_path / "x.raw")
    assert "holds no certificate in PEM" in said


def test_an_image_is_whole_or_not_taken(built: Built, tmp_path: Path) -> None:
    manifest = tmp_path / "os.json"
    manifest.write_text("{}")
    said = refused(tmp_path, 3, "--image", manifest, built["iso"], tmp_path / "x.iso")
    assert "has no signature beside it" in said
    assert "has no payload beside it" in said


@pytest.mark.parametrize("options", ["a='b c'", 'a="b"', "a\nb", "x" * 2000])
def test_options_that_grub_would_change_are_refused(
    built: Built, tmp_path: Path, options: str
) -> None:
    said = refused(tmp_path, 3, "--cmdline", options, built["iso"], tmp_path / "x.iso")
    assert said.startswith("bedplate: --cmdline: ")


@pytest.mark.parametrize("form", ["iso", "raw"])
def test_a_medium_without_a_loader_takes_no_options(tmp_path: Path, form: str) -> None:
    owned = build(tmp_path / "owned", shim=False)
    said = refused(tmp_path, 3, "--cmdline", "ip=dhcp", owned[form], tmp_path / f"x.{form}")
    assert "takes no further options" in said


def test_a_file_beyond_4_gib_wants_an_iso(built: Built, tmp_path: Path) -> None:
    manifest = tmp_path / "os.json"
    manifest.write_text("{}")
    manifest.with_name("os.json.sig").write_bytes(b"s" * 64)
    with (tmp_path / "os.raw.zst").open("wb") as stream:
        stream.truncate(5 << 30)
    said = refused(tmp_path, 3, "--image", manifest, built["raw"], tmp_path / "x.raw")
    assert "images/os.raw.zst: is too large" in said


def test_what_is_no_medium_is_refused(tmp_path: Path) -> None:
    nothing = tmp_path / "x.img"
    nothing.write_bytes(bytes(1 << 20))
    said = refused(tmp_path, 3, "--plan", PLAN, nothing, tmp_path / "y.img")
    assert "is no medium of bedplate" in said


def test_a_medium_is_not_written_over_itself(built: Built) -> None:
    before = digest(built["iso"])
    result = media("--plan", PLAN, built["iso"], built["iso"])
    assert result.exit_code == 2
    assert digest(built["iso"]) == before
