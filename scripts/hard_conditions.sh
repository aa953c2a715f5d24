#!/usr/bin/env bash
# Run a command where nothing of a developer's computer helps it: another time zone and locale, an empty home folder
# that cannot be written to, and no network but the loopback.
#
#   scripts/hard_conditions.sh COMMAND...
#
# Home and network need Linux and the right to make namespaces (root, or a user with user namespaces); without it these
# conditions are left out and that is said. HARD_TZ and HARD_LOCALE choose the time zone and the locale.
set -euo pipefail

[ $# -gt 0 ] || { echo "usage: scripts/hard_conditions.sh COMMAND..." >&2; exit 2; }
say() { printf 'hard conditions: %s\n' "$*" >&2; }

# The zone is 12:45 or 13:45 from Greenwich. In the Turkish locale the capital of i is not I, and the decimal sign a comma.
export TZ=${HARD_TZ:-Pacific/Chatham}
locale=${HARD_LOCALE:-tr_TR.UTF-8}
known() { locale -a 2>/dev/null | tr 'A-Z' 'a-z' | tr -d - | grep -qx "$(tr 'A-Z' 'a-z' <<<"$locale" | tr -d -)"; }
if ! known && [ "$(id -u)" = 0 ] && command -v localedef >/dev/null; then
    localedef -i "${locale%%.*}" -f "${locale#*.}" "$locale" >/dev/null 2>&1 || true
fi
if known; then
    export LC_ALL=$locale LANG=$locale
else
    say "there is no locale $locale here (Debian's package locales brings it); C is taken"
    export LC_ALL=C LANG=C
fi
unset XDG_CACHE_HOME XDG_CONFIG_HOME XDG_DATA_HOME MPLCONFIGDIR

spaces=(unshare --mount --net)
[ "$(id -u)" = 0 ] || spaces=(unshare --map-root-user --mount --net)
if command -v unshare >/dev/null && "${spaces[@]}" true 2>/dev/null; then
    say "TZ=$TZ, LC_ALL=$LC_ALL, an empty read-only home, no network"
    # shellcheck disable=SC2016  # expanded inside
    exec "${spaces[@]}" bash -euc '
        if command -v ip >/dev/null; then ip link set lo up; else python3 -c "
import fcntl, socket, struct
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    fcntl.ioctl(s, 0x8914, struct.pack(\"16sh\", b\"lo\", 1))"; fi
        home=$(mktemp -d)
        mount -t tmpfs -o ro,size=4k none "$home"
        export HOME=$home
        exec "$@"' hard "$@"
fi
say "TZ=$TZ, LC_ALL=$LC_ALL; no right to make namespaces here: home and network stay as they are"
exec "$@"
