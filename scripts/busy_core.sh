#!/usr/bin/env bash
# Run a command on one core, while stress-ng keeps all cores busy: what depends on being quick enough fails here.
#
#   scripts/busy_core.sh COMMAND...
set -euo pipefail

[ $# -gt 0 ] || { echo "usage: scripts/busy_core.sh COMMAND..." >&2; exit 2; }
command -v stress-ng >/dev/null || { echo "stress-ng is not installed (Debian: apt install stress-ng)" >&2; exit 1; }
stress-ng --cpu "$(nproc)" --timeout 7200 --quiet &
stress=$!
trap 'kill "$stress" 2>/dev/null; wait "$stress" 2>/dev/null || true' EXIT
pin=()
if command -v taskset >/dev/null; then pin=(taskset --cpu-list 0); fi
"${pin[@]}" "$@"
