"""Images: a payload of independent zstd frames, and the signed manifest that names them.

    pack      tar ─► payload + manifest + signature          (where images are made)
    fetch     mirrors ─► manifest, signature checked first
    stream    mirrors ─► verified chunks of the raw image, in order, bounded memory
    tree      chunks ─► a root file system, by GNU tar in a private root

The format is docs/image-format.md. Nothing in here knows of plans or machines; programs are run
through a port that the caller passes in.
"""
