#!/bin/sh
# Keep the EFI system partitions of a mirrored machine equal.
#
# usage: bedplate-esp-sync [FIRST SECOND...]
#
# Kernel updates write to FIRST; this copies it to SECOND. While the disk with FIRST is gone, SECOND
# is shown in its place, so that kernel updates reach a disk that boots; when FIRST comes back, or a
# new disk with an empty one, it is SECOND that holds the truth, once.
#
# Each file takes its place in one step: kernels and initrds first, then the boot entries that name
# them, the loaders last, and what is old goes after everything new is there.
set -eu

[ $# -gt 0 ] || set -- /boot/efi /boot/efi2 /boot/efi3
first=$1
shift
state=${STATE_DIRECTORY:-/var/lib/bedplate/esp}

say() { echo "bedplate-esp-sync: $*"; }

# Each loader keeps a seed of its own; a .new is what a power cut left of a copy.
files_of() {
	(cd "$1" && find . -type f ! -path ./loader/random-seed ! -name '*.new' | sort)
}

# Sort file names into the order of copying: what is named, what names it, what starts that.
ranked() {
	while IFS= read -r file; do
		case $file in
		./EFI/*) echo "3$file" ;;
		./loader/entries/*) echo "2$file" ;;
		*) echo "1$file" ;;
		esac
	done | sort
}

copy_file() {
	mkdir -p "$(dirname "$2")"
	cp "$1" "$2.new"
	sync "$2.new"
	mv -f "$2.new" "$2"
}

mirror() {
	from=$1 to=$2 changed=0
	if ! files_of "$from" | grep -q '^\./EFI/BOOT/'; then
		say "$from has no boot loader: not copied over $to" >&2
		return 1
	fi
	find "$to" -type f -name '*.new' -exec rm -f {} +
	files_of "$from" | ranked >"$state/wanted"
	while IFS= read -r line; do
		file=${line#?}
		cmp -s "$from/$file" "$to/$file" && continue
		copy_file "$from/$file" "$to/$file"
		changed=$((changed + 1))
	done <"$state/wanted"
	# Entries before the kernels that they name: the reverse order.
	files_of "$to" | ranked | sort -r >"$state/there"
	while IFS= read -r line; do
		file=${line#?}
		[ -e "$from/$file" ] && continue
		rm -f "$to/$file"
		changed=$((changed + 1))
	done <"$state/there"
	find "$to" -mindepth 1 -depth -type d -empty ! -path "$to/loader" -exec rmdir {} +
	rm -f "$state/wanted" "$state/there"
	sync -f "$to"
	[ "$changed" -eq 0 ] || say "$to is equal to $from again ($changed files)"
}

pair() {
	second=$1
	behind=$state/behind-${second##*/}
	if ! mountpoint -q "$second"; then
		say "$second is not mounted, nothing to do"
	elif ! mountpoint -q "$first"; then
		: >"$behind"
		mount --bind "$second" "$first"
		say "$first is missing, $second stands in for it"
	elif [ "$(stat -c %d:%i "$first")" = "$(stat -c %d:%i "$second")" ]; then
		: # the one stands in for the other
	elif [ -e "$behind" ]; then
		mirror "$second" "$first"
		rm -f "$behind"
	else
		mirror "$first" "$second"
	fi
}

# systemd gives a slow disk up and does not come back to it: whoever writes a kernel to $first then
# writes it below the mount point. What fstab names is mounted as soon as it is there.
catch_up() {
	[ -d "$1" ] || return 0
	mountpoint -q "$1" && return 0
	mount "$1" 2>/dev/null || return 0
	say "$1 came late and is mounted now"
}

mkdir -p "$state"
exec 9<"$state"
flock 9
for esp in "$first" "$@"; do
	catch_up "$esp"
done
# What fails with one ESP must not keep the next from being copied. In the background, because as a
# condition the function would not stop at what fails (sh(1), -e).
status=0
for esp in "$@"; do
	# The one that holds the truth comes first, so that the others get it in the same run.
	[ -e "$state/behind-${esp##*/}" ] || continue
	pair "$esp" &
	wait $! || status=1
done
for esp in "$@"; do
	[ -d "$esp" ] || continue
	pair "$esp" &
	wait $! || status=1
done
exit $status
