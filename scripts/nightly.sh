#!/usr/bin/env bash
# One night, for cron, systemd and CI: sets the harness up, goes on with a night that was cut off or begins a new one,
# and gates it. The exit code is the verdict: 0 PASS, 99 FAIL, 98 INCONCLUSIVE, 97 INVALID; see docs/nightly.md.
#
#   scripts/nightly.sh CONFIG.yaml [option of harness nightly ...]
#
#   POLICY   a YAML file of harness gate; without one, every check blocks
#   JUNIT    where to write JUnit XML
set -euo pipefail

{ # read whole before any of it runs: a script that is edited while it runs would go on in the middle of a line
die() { printf 'nightly: %s\n' "$*" >&2; exit 2; }

[ $# -ge 1 ] || die 'usage: scripts/nightly.sh CONFIG.yaml [option of harness nightly ...]'
config=$(realpath -- "$1") || die "there is no $1"
[ -f "$config" ] || die "there is no file $1"
shift
for name in POLICY JUNIT; do
    [ -z "${!name:-}" ] || printf -v "$name" '%s' "$(realpath -m -- "${!name}")"
done
cd "$(dirname "${BASH_SOURCE[0]}")/.."

make setup >&2
harness=.venv/bin/harness
said=$(mktemp)
trap 'rm -f "$said"' EXIT

# In the background, so that a TERM of systemd or Kubernetes is passed on: bash waits for a foreground child first.
child=
stop() { [ -z "$child" ] || kill -TERM "$child" 2>/dev/null || true; }
trap stop TERM INT
"$harness" nightly "$config" --resume "$@" > "$said" & child=$!
code=0
wait "$child" || code=$?
while kill -0 "$child" 2>/dev/null; do
    code=0
    wait "$child" || code=$?
done
child=
cat "$said"

# Without a summary there is no night to be gated; one that was interrupted is gone on with later.
night=$(sed -n 's/^summary: \(.*\)\/summary\.html$/\1/p' "$said")
[ -n "$night" ] && [ "$code" != 130 ] || exit "$code"
gate=("$harness" gate "$night")
[ -z "${POLICY:-}" ] || gate+=(--policy "$POLICY")
[ -z "${JUNIT:-}" ] || gate+=(--junit "$JUNIT")
[ -z "${GITHUB_STEP_SUMMARY:-}" ] || gate+=(--github)
gated=0
"${gate[@]}" || gated=$?
# A policy may let a verdict through, but nothing that went wrong beside it.
case $code in 0 | 97 | 98 | 99) exit "$gated" ;; esac
[ "$gated" = 0 ] || exit "$gated"
exit "$code"
}
