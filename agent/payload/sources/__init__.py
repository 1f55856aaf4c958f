"""What people have, as one stream that can be packed.

    opening     whatever it is ─► a tar stream, or a disk; told by its first bytes (detect)
    directory   a directory ─► tar, by GNU tar
    layout      an OCI or Docker image in files ─► its layers
    layers      layers ─► one tar, each path once
    squashfs    ─► tar, by sqfs2tar
    disk, qemu  a raw, qcow2 or vmdk image ─► its bytes, holes told apart
    system      a disk image's file systems, put together ─► tar

Everything streams: nothing is unpacked to a disk. Programs are run through ports.
"""
