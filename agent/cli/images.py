"""`bedplate image …`: what can be done with an image that was packed.

Each command lives in a module of its own and is added to the group here.
"""

from __future__ import annotations

import click

from agent.cli.look import look_commands
from agent.cli.push import push_commands
from agent.cli.retention import retention_commands


@click.group("image")
def image_group() -> None:
    """Look at images, check them, compare them, push them to a registry, tidy up."""


for command in (*look_commands, *retention_commands, *push_commands):
    image_group.add_command(command)

images_commands: tuple[click.Command, ...] = (image_group,)
