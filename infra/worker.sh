#!/bin/sh
# A worker of the work pool `genxfer` that runs flows as processes: worker.sh NAME. No two workers have one name, as the
# runs that Prefect believes this one to be at work on are dead: so are their processes.
set -eu
cd "$(dirname "$0")/.."
# After a reboot all containers start at once: while Prefect does not answer, this one ends, and is started again.
python -m genxfer.stack.runs "$1"
exec prefect worker start --pool genxfer --type process --name "$1" --with-healthcheck
