"""Bedplate: puts any OS image on any bare-metal machine.

The way of the data is the layout of the package: plan and inventory (pure) are resolved to a
layout and a list of steps; steps act through the ports of `machine`; adapters implement the ports.
"""

__version__ = "0.1.0"
