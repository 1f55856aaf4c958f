"""Stream a raw image onto a device with ironic-python-agent's own code: URL SHA256 DEVICE.

Runs in the virtual environment that the bench makes for it, so nothing of ours is imported.
"""

from __future__ import annotations

import os
import sys


def main(url: str, digest: str, device: str) -> None:
    # The order matters: the first registers options that the others read as they are imported.
    from ironic_python_agent import config  # type: ignore[import-not-found]  # noqa: F401
    from ironic_python_agent.extensions import standby  # type: ignore[import-not-found]
    from oslo_config import cfg  # type: ignore[import-not-found]

    cfg.CONF([], project="ironic-python-agent", default_config_files=[])
    extension = standby.StandbyExtension()
    extension.partition_uuids = {}
    image = {"id": "bench", "urls": [url], "os_hash_algo": "sha256", "os_hash_value": digest}
    extension._stream_raw_image_onto_device(image, device)
    descriptor = os.open(device, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


if __name__ == "__main__":
    main(*sys.argv[1:])
