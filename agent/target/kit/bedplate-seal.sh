#!/bin/sh
# Bind the disks to this machine's TPM *as this system started it*, once, on its first boot.
#
# The installer could not: it ran in another system, which the firmware measured differently. It
# bound the disks to the TPM without registers (the provisional keyslot). This makes the final
# keyslot, proves that it opens, and only then destroys the provisional one. The recovery key's
# keyslot is never touched.
#
# May be cut off anywhere and run again: the LUKS header itself says how far it got. A keyslot is
# destroyed only with the key of another one, which cryptsetup tries first (so never with -q).
# Never `clevis -y`: it skips the check of the Tang server's thumbprint.
#
# Keys are in variables of this shell and in pipes, never in arguments: printf must be a builtin.
#
# Usage: bedplate-seal [ROOT]    ROOT is put before the paths below, for tests.
set -eu
umask 077
export LC_ALL=C

root=${1:-}
conf=$root/etc/bedplate/seal.json
reports=$root/etc/bedplate/seal.d
state=$root/var/lib/bedplate

say() { printf 'bedplate-seal: %s\n' "$*"; }
die() { say "$@" >&2; exit 1; }

text() { jose fmt -j "$conf" -Og "$1" -u-; }
json() { jose fmt -j "$conf" -Og "$1" -o-; }

# Slot numbers in use / tokens of Clevis, from the dump's "  3: luks2" and "  3: clevis".
numbers() { cryptsetup luksDump "$device" | sed -n "s/^[[:space:]]*\([0-9]*\): $1[[:space:]]*\$/\1/p"; }
has_slot() { numbers luks2 | grep -qx "$1"; }

# opens SLOT KEY
opens() {
    printf '%s' "$2" | cryptsetup open --test-passphrase --key-slot "$1" --key-file - "$device"
}

# destroy SLOT KEY: the key must open another slot.
destroy() {
    printf '%s' "$2" | cryptsetup luksKillSlot --key-file - "$device" "$1"
}

# A token outlives its keyslot; one that names no keyslot is left over from there or from a cut.
drop_idle_tokens() {
    for token in $(numbers clevis); do
        slots=$(cryptsetup token export --token-id "$token" "$device" |
            jose fmt -j- -Og keyslots -Al -o-)
        [ "$slots" != 0 ] || cryptsetup token remove --token-id "$token" "$device"
    done
}

# Ask the TPM alone for its share of the final keyslot: with "or", Tang would hide that it refuses.
tpm_agrees() {
    shares=$(cryptsetup token export --token-id "$to" "$device" |
        jose fmt -j- -Og jwe -Og protected -SyOg clevis -Og sss -Og jwe -Af- | tr -d '"')
    for share in $shares; do
        pin=$(printf '%s' "${share%%.*}" | jose b64 dec -i- | jose fmt -j- -Og clevis -Og pin -Su-)
        [ "$pin" = tpm2 ] || continue
        printf '%s' "$share" | clevis decrypt >/dev/null
        return
    done
    return 1
}

# Does the final keyslot open by itself, now? Leaves its key in $final.
sealed() {
    has_slot "$to" &&
        final=$(clevis luks pass -d "$device" -s "$to") &&
        opens "$to" "$final" &&
        tpm_agrees
}

seal() {
    has_slot "$from" ||
        die "keyslot $to does not open and keyslot $from is gone: use the recovery key"
    provisional=$(clevis luks pass -d "$device" -s "$from") ||
        die "keyslot $from does not open yet: is Tang within reach?"
    # What was begun and not finished, or was sealed to registers that have changed since.
    if has_slot "$to"; then destroy "$to" "$provisional"; fi
    drop_idle_tokens
    printf '%s\n' "$provisional" |
        clevis luks bind -d "$device" -s "$to" -t "$to" -k - sss "$(json config)" ||
        die "clevis did not bind keyslot $to"
    sealed || die "keyslot $to was bound and does not open"
}

# The same event each time, so that a receiver knows it again.
make_event() {
    [ -s "$state/seal-event.json" ] && return
    jose fmt -j "$conf" -Og event -j "$(date +%s)" -s time -Uo- >"$state/seal-event.new"
    printf '\n' >>"$state/seal-event.new"
    mv "$state/seal-event.new" "$state/seal-event.json"
}

# Each file is a curl configuration with URL and token; one that was answered is not needed again.
report() {
    for sink in "$reports"/*.curl; do
        [ -e "$sink" ] || continue
        answer=$(curl --disable --config "$sink" --globoff --noproxy '*' --silent --show-error \
            --max-time 60 --header 'Content-Type: application/x-ndjson' --output /dev/null \
            --write-out '%{http_code}' --data-binary "@$state/seal-event.json" || :)
        case $answer in
        2??) rm -f "$sink" ;;
        # Busy, or too early: another time it may be taken. Every other 4xx is the receiver's last
        # word (a token that ran out, an order it has forgotten), and asking on would never end.
        408 | 425 | 429) say "${sink##*/} is busy: status $answer" >&2 && unheard=1 ;;
        4??) say "${sink##*/} refused the report with status $answer" >&2 && rm -f "$sink" ;;
        *) say "the report to ${sink##*/} was answered with status $answer" >&2 && unheard=1 ;;
        esac
    done
}

case $(command -V printf) in
*builtin*) ;;
*) die "this shell has no printf of its own: keys would become arguments" ;;
esac
[ -r "$conf" ] || die "$conf is missing"
[ ! -e "$state/sealed.json" ] || exit 0
mkdir -p "$state"

from=$(json from)
to=$(json to)
# The disks of data, if there are any: in a list of their own, after the system's.
further=$(jose fmt -j "$conf" -Og further -Af- 2>/dev/null | tr -d '"') || further=

# What fails ends the script, so that nothing is reported before all of them are sealed.
for device in $(text device) $further; do
    sealed || seal
    if has_slot "$from"; then destroy "$from" "$final"; fi
    drop_idle_tokens
    say "sealed: keyslot $to of $device"
done

make_event
unheard=0
report
[ "$unheard" = 0 ] || die "sealed, but not every report was taken"
# The last act; the unit's condition looks for this file.
cp "$state/seal-event.json" "$state/sealed.new"
sync
mv "$state/sealed.new" "$state/sealed.json"
