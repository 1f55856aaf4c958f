"""Hard links between volumes: a kernel's in /boot is laid as a copy, any other is refused."""

from __future__ import annotations

import pytest

from agent.checks.image import ImageFits
from tests.unit.test_checks import NOTHING, layout, manifest

GIB = 1 << 30


@pytest.mark.parametrize(
    ("pair", "refused"),
    [
        (("/boot", "/usr/lib/modules"), False),
        (("/bin", "/boot"), False),
        (("/usr/share", "/usr/lib"), False),
        (("/usr/boot", "/var/lib"), True),
        (("/usr/share", "/var"), True),
    ],
)
def test_a_link_may_lead_into_boot_and_to_no_other_volume(
    pair: tuple[str, str], refused: bool
) -> None:
    image = manifest(**{"": GIB})
    assert image.tree is not None
    image = image.model_copy(update={"tree": image.tree.model_copy(update={"links": (pair,)})})
    found = [problem.message for problem in ImageFits(image, layout(), GIB).problems(NOTHING)]
    assert len(found) == refused
    assert all(f"a file linked in {pair[0]} and in {pair[1]}" in message for message in found)
