"""Debian packages fetched and unpacked below build/bench, without installing any.

So a peer of another release runs on Debian 12 and 13 alike, a server package starts no daemon, and
the machine's own apt lists stay as they are. apt verifies the archive's signature and the hashes.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from image.builder import apt
from tests.bench.errors import BenchError
from tests.bench.process import run

INPUT = "trixie"
"""Whose packages the images are made of, whatever this machine runs."""
NEWEST = "forky"
"""Where a peer, or the changed package, comes from that is not in `INPUT` or is newer here."""


@dataclass(frozen=True)
class Unpacked:
    """One or more packages, unpacked into one tree."""

    tree: Path
    version: str

    def program(self, name: str) -> Path:
        for directory in ("usr/bin", "usr/sbin"):
            if (self.tree / directory / name).exists():
                return self.tree / directory / name
        raise BenchError(f"{name}: not in {self.tree}")

    def environment(self) -> dict[str, str]:
        """Return what its programs need to find their libraries, and Python its modules."""
        libraries = [str(path) for path in (self.tree / "usr/lib").glob("*-linux-gnu")]
        found = {"LD_LIBRARY_PATH": os.pathsep.join(libraries)} if libraries else {}
        return {**found, "PYTHONPATH": str(self.tree / "usr/lib/python3/dist-packages")}


class Archive:
    """apt with lists of its own for `INPUT` and `NEWEST`, and with no package installed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._ready = False

    def unpack(self, name: str, packages: Sequence[str], suite: str) -> Unpacked:
        """Unpack packages as build/bench/peers/NAME, once; the version is the first one's."""
        tree = self._directory / "peers" / name
        stamp = tree / "bench-version"
        if not stamp.exists():
            shutil.rmtree(tree, ignore_errors=True)
            tree.mkdir(parents=True)
            for package in packages:
                deb = self.download(package, suite)
                run(["dpkg-deb", "-x", deb, tree])
                if package == packages[0]:
                    version = deb.name.split("_")[1].replace("%3a", ":")
                    (tree / "version").write_text(version)
            (tree / "version").rename(stamp)
        return Unpacked(tree, stamp.read_text())

    def download(self, package: str, suite: str) -> Path:
        """Fetch one package, without what it depends on; `suite` "" is this machine's own."""
        place = self._directory / "debs" / (suite or "host")
        place.mkdir(parents=True, exist_ok=True)
        found = sorted(place.glob(f"{package}_*.deb"))
        if found:
            return found[0]
        wanted = f"{package}/{suite}" if suite else package
        options = self._options() if suite else []
        try:
            run(["apt-get", "-q", *options, "download", wanted], cwd=place)
        except BenchError:
            if suite:
                raise
            run(["apt-get", "-q", "update"])  # lists older than the archive
            run(["apt-get", "-q", "download", wanted], cwd=place)
        return next(place.glob(f"{package}_*.deb"))

    def closure(self, packages: Sequence[str]) -> list[Path]:
        """Download the packages of `INPUT` and all they depend on; return the files.

        In apt's order of installation: what a package needs comes before it.
        """
        asked = [*self._options(), "--yes", "-t", INPUT, "--no-install-recommends", "install"]
        run(["apt-get", "-qq", "--download-only", *asked, *packages])
        files = file_names(run(["apt-get", "-qq", "--simulate", *asked, *packages]))
        return [self._directory / "apt/cache/archives" / file for file in files]

    def _options(self) -> list[str]:
        base = self._directory / "apt"
        options = [
            f"-oDir::Etc::SourceList={base / 'sources'}",
            "-oDir::Etc::SourceParts=/dev/null",
            "-oDir::Etc::Preferences=/dev/null",
            "-oDir::Etc::PreferencesParts=/dev/null",
            f"-oDir::State={base}",
            f"-oDir::State::Lists={base / 'lists'}",
            f"-oDir::State::Status={base / 'status'}",
            f"-oDir::Cache={base / 'cache'}",
            "-oAcquire::Languages=none",
            "-oAcquire::Retries=3",
            "-oAPT::Sandbox::User=root",
        ]
        with self._lock:
            if not self._ready:
                for place in ("lists/partial", "cache/archives/partial"):
                    (base / place).mkdir(parents=True, exist_ok=True)
                (base / "status").touch()
                (base / "sources").write_text(_sources())
                run(["apt-get", "-q", *options, "update"])
                self._ready = True
        return options


def _sources() -> str:
    """Return sources.list(5) for both suites, from wherever this machine gets its packages."""
    release = dict(
        line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if line
    )
    codename = release.get("VERSION_CODENAME", "").strip('"')
    found = [source for source in apt.read_sources(Path("/etc/apt"), codename) if not source.pocket]
    if not found:
        raise BenchError(f"/etc/apt: no Debian archive for {codename or 'this release'}")
    return "".join(
        f"deb [signed-by={apt.KEYRING}] {source.uri} {suite} main\n"
        for source in found
        for suite in (INPUT, NEWEST)
    )


def file_names(simulated: str) -> list[str]:
    """Return the packages' file names, from what `apt-get --simulate install` says.

    Its lines: Inst NAME (VERSION ORIGIN [ARCHITECTURE]) and more.
    """
    found = re.findall(r"^Inst (\S+) (?:\[\S+\] )?\((\S+) .*?\[(\w+)\]\)", simulated, re.MULTILINE)
    return [
        f"{name.partition(':')[0]}_{version.replace(':', '%3a')}_{architecture}.deb"
        for name, version, architecture in found
    ]
