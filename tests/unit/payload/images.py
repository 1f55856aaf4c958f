"""Small images made by the real `pack`, with chunks of 64 KiB so that there are many of them."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.payload.manifest import CHUNK_SIZES, Manifest
from agent.payload.pack import Packed, PackOptions, pack
from agent.payload.sign import SigningKey, keygen, load_signing_key

SMALL = CHUNK_SIZES.start
DEBIAN = b'PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nID=debian\nVERSION_ID="13"\n'


@dataclass(frozen=True)
class Image:
    """An image in memory, as a mirror would hold it, and what it must turn into."""

    manifest: Manifest
    raw: bytes
    files: Mapping[str, bytes]
    key: SigningKey

    @property
    def payload(self) -> bytes:
        return next(body for path, body in self.files.items() if path.endswith(".zst"))


def member(name: str, content: bytes | None = None, **fields: object) -> tarfile.TarInfo:
    """Return a member's header; `link` and `directory` by `type`, content by `add`."""
    found = tarfile.TarInfo(name)
    found.mtime, found.mode = 1_700_000_000, 0o644
    found.size = len(content or b"")
    for key, value in fields.items():
        setattr(found, key, value)
    return found


def tar_of(
    members: Iterable[tuple[tarfile.TarInfo, bytes]], format: int = tarfile.PAX_FORMAT
) -> bytes:
    """Return an archive of the members, in order."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        for header, content in members:
            archive.addfile(header, io.BytesIO(content))
    return out.getvalue()


def files(contents: Mapping[str, bytes]) -> bytes:
    """Return an archive of plain files."""
    return tar_of((member(path, content), content) for path, content in contents.items())


def mixed(seed: int, size: int) -> bytes:
    """Return bytes that compress to about half, without a stretch that repeats."""
    numbers = random.Random(seed)
    return bytes(byte & 0x0F for byte in numbers.randbytes(size))


def root_file_system() -> bytes:
    """Return an archive with files that compress, some that do not, and a long stretch of zeros."""
    return files(
        {
            "etc/os-release": DEBIAN,
            "usr/bin/random": random.Random(1).randbytes(3 * SMALL),
            "usr/lib/mixed": mixed(2, 4 * SMALL),
            "var/zeros": bytes(5 * SMALL),
            "var/last": random.Random(3).randbytes(2 * SMALL + 777),
        }
    )


def signing_key(directory: Path) -> SigningKey:
    keygen(directory / "key.pem", directory / "key.pub")
    return load_signing_key(directory / "key.pem")


def packed(
    raw: bytes, directory: Path, name: str = "image", key: SigningKey | None = None
) -> Packed:
    options = PackOptions(level=1, chunk_size=SMALL, workers=2)
    key = key or signing_key(directory)
    return pack(io.BytesIO(raw), directory, name, key, options=options)


def image(directory: Path, raw: bytes | None = None) -> Image:
    """Pack a small root file system and return it as a mirror would hold it."""
    raw = root_file_system() if raw is None else raw
    key = signing_key(directory)
    made = packed(raw, directory, key=key)
    paths = (made.payload, made.document, made.signature)
    return Image(made.manifest, raw, {path.name: path.read_bytes() for path in paths}, key)
