"""What operators are told of host parameters is what the templates read."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
TEMPLATES = sorted((ROOT / "integrations/foreman").glob("*.erb"))
GUIDE = (ROOT / "docs/foreman.md").read_text()


def test_every_parameter_that_a_template_reads_is_documented_and_no_other() -> None:
    read = set()
    for template in TEMPLATES:
        read |= set(re.findall(r"host_param(?:!|_true\?)?\('([a-z_]+)'", template.read_text()))
    table = GUIDE[GUIDE.index("## Host parameters") : GUIDE.index("## What happens when")]
    told = {
        name
        for line in table.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`([a-z_…]+)`", line.split("|")[1])
    }
    told = {name.replace("…", "bedplate_config_reports") for name in told}
    assert told - {"kernelcmd"} == read


def test_every_template_is_in_the_table() -> None:
    for template in TEMPLATES:
        assert f"`{template.name}`" in GUIDE
