"""Start machines from virtual media through their BMC, by Redfish (DMTF DSP0266).

`bmc` is what we ask of a BMC, `media` serves an image that lies here, `following` hears how an
installation goes, `installing` brings them together. The library is sushy, imported in `bmc` only.
"""
