"""Stream a raw image onto a device with ironic-python-agent's own code: URL SHA256 DEVICE.

Runs in the virtual environment that the bench makes for it, so nothing of ours is imported.
"""

from __future__ import annotations

import os
import sys
from typing import Any


def main(url: str, digest: str, device: str) -> None:
    from ironic_python_agent import (  # type: ignore[import-not-found]
        disk_utils,
        partition_utils,  # noqa: F401  # registers options that the others read
    )
    from ironic_python_agent.extensions import standby  # type: ignore[import-not-found]
    from oslo_config import cfg  # type: ignore[import-not-found]

    cfg.CONF([], project="ironic-python-agent", default_config_files=[])
    # It would repair the table of a larger disk and look for a UUID when all is written. That is
    # not what is timed here, and wants programs of the ramdisk.
    quiet: Any = disk_utils
    quiet.fix_gpt_partition = lambda device, node_uuid: None
    quiet.block_uuid = lambda device: ""
    extension = standby.StandbyExtension()
    extension.partition_uuids = {}
    image = {"id": "bench", "urls": [url], "os_hash_algo": "sha256", "os_hash_value": digest}
    extension._stream_raw_image_onto_device(image, device)
    descriptor = os.open(device, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


if __name__ == "__main__":
    main(*sys.argv[1:])
