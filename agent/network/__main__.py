"""Write the network of the live system: `python3 -m agent.network`, before udev and networkd.

What is wrong goes to stderr, which the unit sends to the consoles; what is right is done all the
same, because a machine that answers can be looked at.
"""

from __future__ import annotations

import sys
from pathlib import Path

from agent.network.translate import translate

COMMAND_LINE = Path("/proc/cmdline")
PLACE = Path("/run/systemd/network")


def main() -> None:
    found = translate(COMMAND_LINE.read_text())
    PLACE.mkdir(parents=True, exist_ok=True)
    for name, text in found.files.items():
        (PLACE / name).write_text(text)
    for problem in found.problems:
        sys.stderr.write(f"bedplate: {problem}\n")


if __name__ == "__main__":
    main()
