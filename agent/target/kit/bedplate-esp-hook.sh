#!/bin/sh
# Run by the package manager's kernel hooks and by kernel-install, after they changed the first ESP.
# It never fails: a second ESP that is behind must not stop an update, and the path unit and the next
# boot try again.
/usr/local/sbin/bedplate-esp-sync || echo "bedplate: the second ESP is not up to date" >&2
exit 0
