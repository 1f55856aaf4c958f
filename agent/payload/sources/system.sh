#!/bin/sh
# Put the file systems of a disk image together, read-only, where nobody else sees them, and run a
# program there with their root as its working directory.
#
#   unshare --mount --propagation private --pid --fork --kill-child \
#       sh system.sh ROOM IMAGE NODE { OFFSET SIZE TYPE OPTIONS MOUNTPOINT }... -- PROGRAM...
#
# ROOM is an empty directory. NODE is how qemu opens the image (JSON), or empty if it is a raw one.
# All ends with the program: the mounts with their namespace, the loop devices with the mounts, and
# qemu with the processes' namespace, whose first process this is.
set -eu
room=$1 image=$2 node=$3
shift 3
umask 022
mkdir "$room/root"

needs() {
    command -v "$1" >/dev/null && return
    echo "needs $1, which is not installed (Debian's package: $2)" >&2
    exit 1
}

if [ -n "$node" ]; then
    needs qemu-storage-daemon qemu-system-common
    : >"$room/disk"
    mount -t proc proc /proc
    qemu-storage-daemon --blockdev "$node" \
        --export "type=fuse,id=disk,node-name=disk,mountpoint=$room/disk,writable=off" >&2 &
    tries=0
    until grep -q " $room/disk fuse" /proc/self/mounts; do
        tries=$((tries + 1))
        kill -0 $! 2>/dev/null || { echo "qemu-storage-daemon could not serve the image" >&2; exit 1; }
        [ $tries -lt 300 ] || { echo "qemu-storage-daemon was not ready in 30 s" >&2; exit 1; }
        sleep 0.1
    done
    image=$room/disk
fi

while [ "$1" != -- ]; do
    offset=$1 size=$2 type=$3 options=$4 point=$room/root$5
    shift 5
    if [ "$type" = vfat ]; then
        needs mcopy mtools
        # Not by the kernel: not every one has vfat. A partition of this type holds some files to
        # boot from, and they take no more memory than it has room.
        mount -t tmpfs -o "mode=0755,size=$size" bedplate "$point"
        export TZ=UTC MTOOLS_SKIP_CHECK=1
        mcopy -s -n -m -i "$image@@$offset" ::/ "$point" >&2
        # Files keep their times; of directories mcopy knows none.
        find "$point" -type d -exec touch -t 198001010000 {} +
    else
        mount -t "$type" -o "loop,offset=$offset,sizelimit=$size,$options" "$image" "$point" || {
            echo "($type must be in this kernel, and must have been unmounted cleanly)" >&2
            exit 1
        }
    fi
done
shift
cd "$room/root"
exec "$@"
