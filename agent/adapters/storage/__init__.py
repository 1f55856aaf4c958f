"""Blocks on disks: the storage port, carried out by blivet and, below it, by plain util-linux.

    stack      what stands on a disk right now, from sysfs
    hold       keep the disks open, and verify on the descriptor that they are the chosen ones
    dismantle  take that apart, top down
    erase      leave nothing on a device that a scanner would find; prove what reads zeros
    secure     have a disk erase all of itself, by its own commands
    table      the GPT, written once with the identities that were chosen
    devices    blivet's classes, taught to keep names and UUIDs that were chosen
    plain      btrfs and swap, by their own programs
    adapter    `BlivetStorage`, the port

Only `devices` and `adapter` import blivet, which loads libblockdev as it is imported. Why blivet
does not clear disks and write tables here: docs/decisions/0002-storage-by-blivet.md.
"""
