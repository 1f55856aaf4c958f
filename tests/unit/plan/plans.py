"""Plans to test with: a small whole one, certificates, and hypothesis strategies of valid plans."""

from __future__ import annotations

import base64
import functools
import json
from datetime import UTC, datetime
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import strategies as st

from agent.errors import PlanError
from agent.plan.catalog import BUILT_IN
from agent.plan.identity import PLACEHOLDER_SERIALS
from agent.plan.network import MODES
from agent.plan.parse import parse

SSH_KEY = (
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHc8hKnSJ6PK4Yr/PRQ7jlq5GlWGNiN3IM8P1Ip5xBET "
    "admin@example.com"
)
THUMBPRINT = "JZXd7eACA60ReRHo5ykcz0UgYrPOzjXDTdyWTz0hNjQ"


def small(**changes: Any) -> dict[str, Any]:
    """Return the content of a small whole plan with changes; None leaves a key out."""
    content = {
        "version": 1,
        "id": "0b6c7c1e-6d6e-4f43-9a4e-6a2f7e0c2b11",
        "machine": {"mac": "52:54:00:12:34:56"},
        "hostname": "db01.example.com",
        "disks": {"count": 1},
        "image": {"manifest": "https://images.example.com/debian13.json"},
        **changes,
    }
    return {key: value for key, value in content.items() if value is not None}


def encrypted(unlock: str = "tpm2", **changes: Any) -> dict[str, Any]:
    """Return the content of a small plan with encryption; `changes` go into that section."""
    section = {"unlock": unlock, "recovery": {"escrow_to": [certificate()]}, **changes}
    report = [{"type": "http", "url": "https://deploy.example.com/v1/events"}]
    return small(encryption=section, report=report)


def text_of(content: object) -> bytes:
    """Return YAML of a content; every scalar is quoted as it must be."""
    return yaml.safe_dump(content, sort_keys=False).encode()


def problems_of(plan: bytes | str | dict[str, Any]) -> list[str]:
    """Return the problems of a plan, without the line numbers; none for a good one."""
    text = plan if isinstance(plan, bytes) else plan.encode() if isinstance(plan, str) else None
    try:
        parse(text_of(plan) if text is None else text)
    except PlanError as error:
        return [str(problem).rpartition(" (line ")[0] or str(problem) for problem in error.problems]
    return []


@functools.cache
def certificate(kind: str = "P-256", authority: bool = False, usage: str | None = None) -> str:
    """Return a self-signed certificate in PEM; `usage` is the one key usage it names."""
    key: Any = {
        "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "P-192": lambda: ec.generate_private_key(ec.SECP192R1()),
        "RSA-3072": lambda: rsa.generate_private_key(65537, 3072),
        "RSA-2048": lambda: rsa.generate_private_key(65537, 2048),
        "Ed25519": ed25519.Ed25519PrivateKey.generate,
    }[kind]()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, kind)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2026, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2046, 1, 1, tzinfo=UTC))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    if usage is not None:
        names = (
            "digital_signature content_commitment key_encipherment data_encipherment "
            "key_agreement key_cert_sign crl_sign encipher_only decipher_only"
        )
        flags = {flag: flag == usage for flag in names.split()}
        builder = builder.add_extension(x509.KeyUsage(**flags), critical=True)
    algorithm = None if kind == "Ed25519" else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(Encoding.PEM).decode()


def encoded(content: object) -> str:
    """Return JSON in base64url without padding, as JOSE has it."""
    return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()


SIGNING_KEY = {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AQ", "key_ops": ["verify"]}
EXCHANGE_KEY = {**SIGNING_KEY, "y": "Ag", "key_ops": ["deriveKey"]}


def advertisement(*keys: object) -> dict[str, Any]:
    """Return an advertisement of these keys; the signature is of the right form and no more."""
    payload = encoded({"keys": list(keys) or [SIGNING_KEY, EXCHANGE_KEY]})
    return {"payload": payload, "protected": encoded({"alg": "ES256"}), "signature": "AAAA"}


# --- strategies ------------------------------------------------------------------------------

_label = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
_words = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF), min_size=1, max_size=20)
words = _words.filter(lambda text: text == text.strip() and text.isprintable())
macs = st.integers(0, (1 << 40) - 1).map(
    lambda n: ":".join(f"52{n:010x}"[i : i + 2] for i in range(0, 12, 2))
)
urls = st.builds(
    "https://{}.example/{}".format, _label, st.from_regex("[a-z0-9/.?=&-]{0,12}", fullmatch=True)
)
paths = st.lists(_label, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(["opt", *parts]))
sizes = st.one_of(
    st.integers(1 << 30, 1 << 50),
    st.builds("{} {}".format, st.integers(1, 900), st.sampled_from(["GiB", "GB", "TiB", "TB"])),
)
shares = st.decimals("0.01", "9", places=2).map(lambda share: f"{share}%")
options = st.lists(
    st.sampled_from(["nodev", "nosuid", "noexec", "noatime", "discard"]), unique=True, max_size=5
)
addresses4 = st.integers(0, 255).map(lambda n: f"192.0.2.{n}/24")
addresses6 = st.integers(0, 65535).map(lambda n: f"2001:db8::{n:x}/64")


def optional(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return a strategy of mappings that have any of these keys."""
    return st.fixed_dictionaries({}, optional=keys)


def one_or_more(item: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return item | st.lists(item, min_size=1, max_size=3)


machines = optional(
    mac=macs,
    serial=words.filter(lambda text: text.lower() not in PLACEHOLDER_SERIALS),
    uuid=st.uuids(version=4).map(str),
).filter(bool)
conditions = st.builds(
    "{} {}".format,
    st.sampled_from(["<", "<=", ">", ">=", "==", "="]),
    sizes.filter(lambda size: isinstance(size, str)),
)
where = optional(
    transport=one_or_more(st.sampled_from(["nvme", "sata", "sas", "scsi", "virtio", "usb", "mmc"])),
    size=one_or_more(conditions),
    rotational=st.booleans(),
    model=one_or_more(words),
)
disks = st.fixed_dictionaries(
    {"count": st.sampled_from([1, 2, 3])},
    optional={
        "where": where,
        "erase": st.sampled_from(["refuse-foreign", "owned", "any"]),
        "secure_erase": st.sampled_from(["auto", "nvme-sanitize", "nvme-format", "ata", "discard"]),
    },
)


OWN_PRESET = {
    "name": "ours",
    "extends": ["cis-l2-server", "anssi-high"],
    "volumes": [{"mount": "/srv", "size": "5 GiB", "grow": True, "options": {"noatime": []}}],
    "without": ["/var/tmp"],
    "esp": {"size": "2 GiB", "without": ["noexec"]},
}


@st.composite
def storages(draw: st.DrawFn) -> dict[str, Any]:
    mounts = draw(
        st.lists(
            st.sampled_from(["/", "/home", "/var", "/srv", "/var/log/audit", "/opt/a.b"]),
            unique=True,
        )
    )
    volumes = []
    for mount in mounts:
        volume = {
            "mount": mount,
            **draw(optional(filesystem=st.sampled_from(["xfs", "ext4", "btrfs"]), options=options)),
        }
        size = draw(sizes | shares | st.sampled_from([True, 1, 2, 100]))
        volume |= {"grow": size} if isinstance(size, int) and size < 1000 else {"size": size}
        if "grow" in volume or str(size).endswith("%"):
            bounds = {"min": st.integers(1 << 30, 1 << 31), "max": st.integers(1 << 32, 1 << 36)}
            volume |= draw(optional(**bounds))
        volumes.append(volume)
    more = draw(
        optional(
            preset=st.sampled_from([*BUILT_IN, OWN_PRESET]),
            filesystem=st.sampled_from(["xfs", "ext4", "btrfs"]),
            leave=shares | st.integers(1 << 20, 1 << 34),
            zram=shares | st.integers(1 << 20, 1 << 34),
            volume_group=st.from_regex("[a-z][a-z0-9-]{0,9}", fullmatch=True),
        )
    )
    return {"volumes": volumes, **more}


@st.composite
def encryptions(draw: st.DrawFn) -> dict[str, Any]:
    policy = draw(
        st.sampled_from(
            [
                "tpm2 and tang",
                "tpm2 or tang",
                "tpm2",
                "tang",
                "tpm2 and 1 of tang",
                "2 of tang or tpm2",
            ]
        )
    )
    section: dict[str, Any] = {"unlock": policy, "recovery": {"escrow_to": [certificate()]}}
    if "tang" in policy:
        trust: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
            [{"thumbprint": THUMBPRINT}, {"advertisement": advertisement()}]
        )
        count = 1 if "of" not in policy else draw(st.integers(2, 3))
        section["tang"] = [{"url": f"http://192.0.2.{n}:7500", **draw(trust)} for n in range(count)]
    if "tpm2" in policy:
        section |= draw(
            optional(tpm2=optional(pcrs=st.just([7]), seal=st.sampled_from(["first-boot", "now"])))
        )
    return section | draw(optional(fips=st.booleans()))


CARDS = [{"mac": "52:54:00:12:34:56"}, {"mac": "52:54:00:12:34:57"}, {"name": "enp1s0"}]
bonds = st.fixed_dictionaries(
    {"ports": st.lists(st.sampled_from(CARDS), min_size=1, unique_by=str)},
    optional={"mode": st.sampled_from(MODES), "name": st.just("uplink")},
)


def _on(carrier: dict[str, Any], vlans: list[int], itself: bool) -> list[dict[str, Any]]:
    """Return VLANs on an interface or a bond, which may have an address too."""
    found = [{**carrier, "vlan": vlan, "dhcp": True} for vlan in vlans]
    return [*found, {**carrier, "dhcp": "ipv4"}] if itself or not found else found


networks = st.one_of(
    st.builds(
        _on,
        st.one_of(
            bonds.map(lambda bond: {"bond": bond}),
            st.sampled_from(CARDS).map(lambda card: {"match": card}),
        ),
        st.lists(st.integers(1, 4094), max_size=3, unique=True),
        st.booleans(),
    ),
    optional(dns=st.just(["192.0.2.53"])).flatmap(
        lambda more: st.sampled_from([True, "yes", "ipv4", "ipv6"]).map(
            lambda dhcp: {"dhcp": dhcp, **more}
        )
    ),
    st.builds(
        lambda mac, four, six, gateway: [
            {"match": {"mac": mac}, "addresses": [four, six], **gateway}
        ],
        macs,
        addresses4,
        addresses6,
        optional(gateway=st.sampled_from(["192.0.2.1", ["192.0.2.1", "fe80::1"]])),
    ),
)
files = st.fixed_dictionaries(
    {"path": paths, "content": st.text(max_size=60)},
    optional={"mode": st.sampled_from(["0644", "600", "4755"])},
)
configures = optional(
    network=networks,
    ssh_authorized_keys=st.dictionaries(
        st.sampled_from(["root", "admin", "on"]), st.just([SSH_KEY])
    ),
    files=st.lists(files, max_size=3, unique_by=lambda file: file["path"]),
    kernel_options=st.lists(
        st.sampled_from(["console=tty0", "quiet", "mitigations=auto,nosmt"]), unique=True
    ),
)
foreman_reports = st.lists(
    st.fixed_dictionaries({"type": st.just("foreman"), "built": urls, "failed": urls}), max_size=1
)
http_reports = st.lists(
    st.fixed_dictionaries(
        {"type": st.just("http"), "url": urls},
        optional={"token": st.from_regex("[A-Za-z0-9._~+/-]{1,30}={0,2}", fullmatch=True)},
    ),
    min_size=1,
    max_size=2,
)
reports = st.tuples(http_reports, foreman_reports).map(lambda both: [*both[0], *both[1]])
plans = st.fixed_dictionaries(
    {
        "version": st.just(1),
        "id": st.uuids().map(str),
        "machine": machines,
        "hostname": st.lists(_label, min_size=1, max_size=3).map(
            lambda parts: ".".join([*parts, "example"])
        ),
        "disks": disks,
        "image": one_or_more(urls).map(
            lambda manifest: {
                "manifest": manifest if isinstance(manifest, str) else list(dict.fromkeys(manifest))
            }
        ),
        "report": reports,
    },
    optional={
        "expires": st.datetimes(timezones=st.just(UTC)).map(lambda time: time.isoformat()),
        "storage": storages(),
        "encryption": encryptions(),
        "overlays": st.lists(st.builds(lambda url: {"manifest": url}, urls), max_size=2),
        "configure": configures,
        "finish": st.sampled_from(["reboot", "poweroff", "stay"]),
    },
)
"""The content of a valid plan, as YAML would give it."""
