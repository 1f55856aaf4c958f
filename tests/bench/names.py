"""Names of the programs that race, as the table and the progress lines show them."""

OURS = "bedplate"
PIPE = "curl | zstd -dc | dd"
STAGED = "staged, checked, written"
TAR = "curl | tar --zstd"
CURL = "curl"
ZSTD = "zstd -T0, sha256sum"
BMAPTOOL, IRONIC, DESYNC = "bmaptool", "ironic-python-agent", "desync"
"""Beginnings: the versions follow."""
STAGES = ("start", "fetch", "hash", "decode", "write")
FILESYSTEMS = ("xfs", "ext4")
IMAGES = ("small disk", "large disk", "small tree", "large tree")
