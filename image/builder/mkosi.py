"""mkosi from Debian trixie, run by the build machine's own Python.

Debian 12 has mkosi 14, which knows nothing of this configuration; trixie's package is plain Python
and runs unpacked. The programs it needs come from the tools tree it builds for itself.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from image.builder import apt, stage
from image.builder.report import BuildError, say, timed

MINIMUM = 25


def fetch(workshop: Path) -> Path:
    """Unpack mkosi below `workshop` unless it is there; returns its PYTHONPATH."""
    unpacked = workshop / "mkosi"
    modules = unpacked / "usr/lib/python3/dist-packages"
    if not (modules / "mkosi/__main__.py").exists():
        with timed(f"mkosi: fetching it from {apt.RELEASE}"):
            package = apt.download(
                sandbox(workshop, apt.RELEASE) / "etc/apt", workshop / "apt", "mkosi"
            )
            shutil.rmtree(unpacked, ignore_errors=True)
            subprocess.run(["dpkg-deb", "-x", package, unpacked], check=True)
    version = _version(modules)
    if version < MINIMUM:
        raise BuildError(f"mkosi: version {version} found, {MINIMUM} or newer is needed")
    return modules


def _version(modules: Path) -> int:
    for metadata in modules.glob("mkosi-*.dist-info"):
        match = re.match(r"mkosi-(\d+)", metadata.name)
        if match:
            return int(match[1])
    return 0


def tools_tree(workshop: Path, configuration: Path, *, verbose: bool) -> Path:
    """The programs that mkosi runs, as a tree of their own; built once."""
    tree = workshop / "tools/tools"
    stamp = workshop / "tools/stamp"
    wanted = stage.digest([configuration])
    if not stamp.exists() or stamp.read_text() != wanted:
        seen = f"--sandbox-tree={sandbox(workshop, apt.RELEASE)}"
        _mkosi(workshop, configuration, "tools", [seen], force=False, verbose=verbose)
        stamp.write_text(wanted)
    return tree


def build(
    workshop: Path,
    directory: Path,
    output: str,
    arguments: list[str],
    *,
    release: str = apt.RELEASE,
    force: bool,
    verbose: bool,
) -> Path:
    """Build the configuration in `directory` as `output`; returns the directory of the results.

    `force` installs all packages afresh; otherwise mkosi starts from the copy it kept after it
    had installed them, if the configuration of the packages has not changed.
    """
    tools = tools_tree(workshop, Path(__file__).parent.parent / "tools", verbose=verbose)
    arguments = [
        *arguments,
        f"--tools-tree={tools}",
        "--incremental=yes",
        f"--release={release}",
        f"--sandbox-tree={sandbox(workshop, release)}",
    ]
    return _mkosi(workshop, directory, output, arguments, force=force, verbose=verbose)


def sandbox(workshop: Path, release: str) -> Path:
    """What mkosi's programs see of this machine: the apt configuration, for `release`."""
    place = workshop / ("sandbox" if release == apt.RELEASE else f"sandbox-{release}")
    apt.write_configuration(place / "etc/apt", release=release)
    return place


def _mkosi(
    workshop: Path,
    directory: Path,
    output: str,
    arguments: list[str],
    *,
    force: bool,
    verbose: bool,
) -> Path:
    modules = fetch(workshop)
    results = workshop / output
    # mkosi names what it keeps after distribution and release only: one directory per image.
    places = {
        "output-directory": results,
        "cache-directory": results / "cache",
        "package-cache-dir": workshop / "packages",
        "workspace-directory": workshop / "workspace",
    }
    # One build runs at a time, so whatever lies there was left by one that was killed.
    shutil.rmtree(workshop / "workspace", ignore_errors=True)
    for place in places.values():
        place.mkdir(parents=True, exist_ok=True)
    argv = [
        "/usr/bin/python3",
        "-m",
        "mkosi",
        f"--directory={directory}",
        *(f"--{option}={place}" for option, place in places.items()),
        f"--output={output}",
        *arguments,
        "-ff" if force else "-f",
        "build",
    ]
    # mkosi takes its programs from its tools tree, not from this machine's PATH.
    environment = {
        name: os.environ[name] for name in ("PATH", "HOME", "TERM") if name in os.environ
    }
    environment |= {
        name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")
    }
    environment |= {"PYTHONPATH": str(modules), "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}
    log = results / "log"
    with timed(f"mkosi: building {output} (log: {log})"):
        if verbose:
            status = subprocess.run(argv, env=environment, check=False).returncode
        else:
            with log.open("w") as stream:
                status = subprocess.run(
                    argv,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    check=False,
                ).returncode
    if status:
        tail = [] if verbose else log.read_text(errors="replace").splitlines()[-30:]
        for line in tail:
            say(f"  | {line}")
        raise BuildError(f"mkosi: building {output} failed with status {status}, log: {log}")
    return results
