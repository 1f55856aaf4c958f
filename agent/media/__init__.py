"""Boot media as files: an ISO and a disk image that carry the live image and a host's own plan.

Made by mtools, xorriso, mkfs.vfat and sfdisk on plain files: no root, no loop device, no mount.
Used by `bedplate media` and by the build of the live image, which has only the standard library.
"""
