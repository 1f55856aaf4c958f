"""Bedplate: puts any OS image on any bare-metal machine.

The way of the data is the layout of the package: plan and inventory (pure) are resolved to a
layout and a list of steps; steps act through the ports of `machine`; adapters implement the ports.
"""

import os

# No package that happens to be installed gets a say in how plans and manifests are read, and to
# look for one that wants it takes a fifth of the time in which a program of ours starts.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

__version__ = "0.1.0"
