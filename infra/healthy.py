"""Whether a server is well, for health checks in containers that have no curl: python infra/healthy.py URL."""

import sys
import urllib.error
import urllib.request

TIMEOUT_S = 5


def main(url: str) -> int:
    """Return 0 if `url` answers with a success, else 1."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=TIMEOUT_S):
            return 0
    except OSError as error:
        print(f"{url}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
