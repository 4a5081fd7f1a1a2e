#!/bin/sh
# The stages of the command line, one after the other, on each of the hosts that train together.
set -eu
cd "$(dirname "$0")/.."
trap : TERM  # a stage ends on its own when it is terminated, and with it this script, by its exit code
for stage in "$@"; do
    genxfer "$stage"
done
