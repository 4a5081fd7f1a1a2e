#!/bin/sh
# Makes or updates the work pool `genxfer`, and deploys what prefect.yaml names: deploy.sh process, or deploy.sh
# kubernetes TEMPLATE, where TEMPLATE is what a flow run's Job is made from, with IMAGE for the image. Needs
# PREFECT_API_URL; may be run again, and is after every upgrade.
set -eu
cd "$(dirname "$0")/.."
PWD=$(pwd)
export PWD  # the folder that runs start in

type=$1
if [ "$type" = kubernetes ]; then
    template=$(mktemp --suffix .json)
    trap 'rm -f "$template"' EXIT
    sed -e "s|\"IMAGE\"|\"${GENXFER_IMAGE:?names the image of flow runs}\"|" -e "s|\"GPUS\"|${GENXFER_GPUS:-0}|" "$2" >"$template"
    prefect --no-prompt work-pool create genxfer --type kubernetes --overwrite --base-job-template "$template"
else
    prefect --no-prompt work-pool create genxfer --type "$type" --overwrite
fi
prefect --no-prompt deploy --all
