"""The build machine's apt configuration, turned into one for a Debian release of our choice.

No mirror is named in the repository: wherever this machine gets its own Debian packages from is
where the images' packages come from. Both formats of sources.list(5) are read.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from image.builder.report import BuildError

RELEASE = "trixie"
"""What the live image and the tools are; a sample target may be of another."""
COMPONENTS = ("main", "non-free-firmware")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
POCKETS = ("", "-updates", "-security")
# A machine may name its release by its age; either way it is the release that it runs.
ALIASES = ("stable", "oldstable", "oldoldstable")
# Settings of the build machine that decide whether a download works at all.
CARRIED_OVER = re.compile(
    r"^Acquire::((http|https)::(?!Proxy-Auto-?Detect)|Retries |Check-Date |Check-Valid-Until )"
)


@dataclass(frozen=True)
class Source:
    """One Debian archive as the build machine knows it: where, and which pocket of its release."""

    uri: str
    pocket: str


def read_sources(etc_apt: Path, codename: str) -> list[Source]:
    """Debian's own archives in `etc_apt` for the release `codename`, without duplicates.

    Archives of others are left out: they have other suites, or no `main`, or another key.
    """
    pockets = {name + pocket: pocket for name in (codename, *ALIASES) for pocket in POCKETS}
    found: dict[Source, None] = {}
    for path in sorted([etc_apt / "sources.list", *(etc_apt / "sources.list.d").glob("*")]):
        if not path.is_file():
            continue
        if path.suffix == ".sources":
            entries = _read_deb822(path.read_text())
        elif path.suffix == ".list":
            entries = _read_one_line(path.read_text())
        else:
            continue
        for uri, suite in entries:
            if suite in pockets:
                found.update(dict.fromkeys(Source(real, pockets[suite]) for real in _resolve(uri)))
    return list(found)


def _read_deb822(text: str) -> Iterator[tuple[str, str]]:
    for stanza in re.split(r"\n\s*\n", text):
        lines = [line for line in stanza.splitlines() if not line.startswith("#")]
        fields: dict[str, str] = {}
        name = ""
        for line in lines:
            if line[:1].isspace():
                fields[name] = f"{fields.get(name, '')} {line.strip()}"
            elif ":" in line:
                name, _, value = line.partition(":")
                name = name.strip().lower()
                fields[name] = value.strip()
        usable = (
            "deb" in fields.get("types", "").split()
            and "main" in fields.get("components", "").split()
            and fields.get("enabled", "yes").lower() not in ("no", "false", "0")
            and _is_debian_key(fields.get("signed-by", ""))
        )
        if usable:
            for uri in fields.get("uris", "").split():
                for suite in fields.get("suites", "").split():
                    yield uri, suite


def _read_one_line(text: str) -> Iterator[tuple[str, str]]:
    line_format = re.compile(r"^deb\s+(?:\[(?P<options>[^]]*)\]\s+)?(?P<rest>\S.*)$")
    for line in text.splitlines():
        match = line_format.match(line.partition("#")[0].strip())
        if not match:
            continue
        uri, *suite_and_components = match["rest"].split()
        key = re.search(r"signed-by=(\S+)", match["options"] or "")
        if "main" in suite_and_components[1:] and _is_debian_key(key[1] if key else ""):
            yield uri, suite_and_components[0]


def _is_debian_key(signed_by: str) -> bool:
    return not signed_by or "debian-archive" in signed_by


def _resolve(uri: str) -> list[str]:
    """The plain URIs behind apt-transport-mirror(1)'s `mirror+file:`, which a sandbox lacks."""
    if uri.startswith("mirror+file:"):
        mirrors = Path(re.sub(r"^mirror\+file:/*", "/", uri))
        lines = mirrors.read_text().splitlines() if mirrors.is_file() else []
        return [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]
    return [] if uri.startswith("cdrom:") else [uri.rstrip("/")]


def sources_for(release: str, sources: list[Source]) -> str:
    """A deb822 file with the same archives for `release`, verified with Debian's own keyring."""
    return "\n".join(
        f"Types: deb\nURIs: {source.uri}\n"
        f"Suites: {release}{source.pocket}\n"
        f"Components: {' '.join(COMPONENTS)}\nSigned-By: {KEYRING}\n"
        for source in sources
    )


def write_configuration(etc_apt: Path, root: Path = Path("/"), *, release: str = RELEASE) -> None:
    """Write sources and download settings for `release` to `etc_apt`, from those of this machine.

    Raises BuildError where this machine's own sources name no Debian archive.
    """
    own = dict(
        line.split("=", 1) for line in (root / "etc/os-release").read_text().splitlines() if line
    )
    codename = own.get("VERSION_CODENAME", "").strip('"')
    sources = read_sources(root / "etc/apt", codename)
    if not any(source.pocket == "" for source in sources):
        raise BuildError(
            f"{root}etc/apt: no Debian archive for {codename or 'this release'} with component"
            " main; the images' packages are fetched from where this machine gets its own"
        )
    for directory in ("sources.list.d", "apt.conf.d"):
        (etc_apt / directory).mkdir(parents=True, exist_ok=True)
    # mkosi writes a list of its own only when this very file does not exist.
    (etc_apt / "sources.list.d/mkosi.sources").write_text(sources_for(release, sources))
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout
    settings = [line for line in dump.splitlines() if CARRIED_OVER.match(line)]
    (etc_apt / "apt.conf.d/90host.conf").write_text("\n".join([*settings, ""]))


@dataclass(frozen=True)
class Archive:
    """The archives of `etc_apt` asked without touching this machine's own lists.

    `cache` is a directory of this archive alone. apt verifies signatures and hashes.
    """

    etc_apt: Path
    cache: Path

    def update(self) -> None:
        """Fetch what the archives offer; raises BuildError."""
        for directory in ("lists/partial", "archives/partial"):
            (self.cache / directory).mkdir(parents=True, exist_ok=True)
        self._run("apt-get", "--quiet", "update")

    def names(self, pattern: str) -> list[str]:
        """The packages whose names match the regular expression, of those `update` found."""
        found = self._run("apt-cache", "search", "--names-only", pattern)
        return [line.split(" ", 1)[0] for line in found.splitlines()]

    def depends(self, package: str) -> list[str]:
        """The packages that the newest version of `package` depends on."""
        found = self._run("apt-cache", "depends", "--important", package)
        return re.findall(r"^ *Depends: ([^ <]+)$", found, re.MULTILINE)

    def download(self, package: str) -> Path:
        """Fetch the newest version of `package`; returns the .deb."""
        for stale in self.cache.glob(f"{package}_*.deb"):
            stale.unlink()
        self._run("apt-get", "--quiet", "download", package)
        return next(self.cache.glob(f"{package}_*.deb"))

    def _run(self, program: str, *arguments: str) -> str:
        options = [
            "-oDir::Etc::SourceList=/dev/null",
            f"-oDir::Etc::SourceParts={self.etc_apt / 'sources.list.d'}",
            f"-oDir::State::Lists={self.cache / 'lists'}",
            f"-oDir::Cache={self.cache}",
            "-oAPT::Sandbox::User=root",
        ]
        done = subprocess.run(
            [program, *options, *arguments],
            cwd=self.cache,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise BuildError(f"{program} {' '.join(arguments)} failed:\n{done.stderr}")
        return done.stdout


def download(etc_apt: Path, cache: Path, package: str) -> Path:
    """Fetch `package` from the archives of `etc_apt`; returns the .deb."""
    archive = Archive(etc_apt, cache)
    archive.update()
    return archive.download(package)
