#!/bin/sh
# Debian's packages that the tests use beside .venv: PostgreSQL, a browser, curl, and for root, who alone may use them,
# iproute2 and tini. Installs what is missing when root runs it, says what to install otherwise, and does nothing when
# all is there.
set -eu

have() { command -v "$1" >/dev/null; }

missing=
have initdb || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="$missing postgresql"
have chromium || missing="$missing chromium"
have curl || missing="$missing curl"
[ "$(id -u)" != 0 ] || have ip || missing="$missing iproute2"
[ "$(id -u)" != 0 ] || have tini || missing="$missing tini"
[ "$missing" ] || exit 0

if [ "$(id -u)" != 0 ] || ! have apt-get; then
    echo "the tests need these packages of Debian: sudo apt-get install$missing" >&2
    exit 1
fi

install() { apt-get install -y -qq --no-install-recommends "$@"; }

echo "installing$missing ..." >&2
{
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    case $missing in *postgresql*)
        install postgresql-common  # else the next package makes a cluster of its own and starts it
        echo "create_main_cluster = false" >>/etc/postgresql-common/createcluster.conf ;;
    esac
    install $missing
} >&2
