#!/bin/sh
# Run GNU tar where nothing but the target's tree can be written, whatever the archive says.
#
#   unshare --mount --propagation private sh extract.sh ROOT TAR-OPTION...  < archive
#
# GNU tar keeps the links of the archive itself from leading it astray, but it follows those that
# lie in the tree already: laid over an image with /var/run -> /run, an archive with var/run/x would
# write to the live system. So tar sees a root of its own: the live /usr read-only to run from, the
# target at /target, and nothing else. A chroot and not pivot_root(2), which refuses to leave an
# initramfs. The private root is mounted over /sys: no target lies there, and tar needs no sysfs.
# All mounts end with tar, because the mount namespace does.
set -eu
# Directories that the archive does not name: the same on every live system.
umask 022
root=$1
shift
mount -t tmpfs -o mode=0755,size=64k,nr_inodes=64 bedplate /sys
cd /sys
mkdir usr target
root_links=
for link in bin sbin lib lib32 lib64 libx32; do
    if [ -h "/$link" ]; then root_links="$root_links /$link"; fi
done
# In one go: each program that is started costs some milliseconds before tar is.
[ -z "$root_links" ] || cp -P $root_links .
mount --bind -o ro /usr usr
mount --rbind "$root" target
mount -o remount,bind,ro /sys
exec chroot /sys /usr/bin/tar -x -C /target "$@"
