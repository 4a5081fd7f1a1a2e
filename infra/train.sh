#!/bin/sh
# The stages of the command line, one after the other, on each of the hosts that train together.
set -eu
cd "$(dirname "$0")/.."
terminated=
trap 'terminated=1' TERM  # a stage ends on its own when it is terminated, and with it this script, by its exit code
for stage in "$@"; do
    [ -z "$terminated" ] || exit 143  # it came between two stages, or as one ended
    genxfer "$stage"
done
