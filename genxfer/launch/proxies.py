"""What keeps a client on this machine from asking a proxy for an address of this machine, which a proxy cannot reach.

Standard library only: Prefect's embedded server must start at once. Knows nothing of who the clients are.
"""

import os

OWN_HOSTS = ("127.0.0.1", "localhost")


def past_proxies() -> dict[str, str]:
    """Return the variables that lead clients past the proxy to this machine's addresses; none where there is no proxy.

    The hosts for which the user wants no proxy stay among them.
    """
    if not {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"} & {name.upper() for name in os.environ}:
        return {}
    known = [host.strip() for host in (os.environ.get("NO_PROXY") or os.environ.get("no_proxy") or "").split(",")]
    if "*" in known:  # all hosts: some clients take it for that only where it stands alone
        return {"NO_PROXY": "*", "no_proxy": "*"}
    hosts = ",".join(dict.fromkeys([*filter(None, known), *OWN_HOSTS]))
    return {"NO_PROXY": hosts, "no_proxy": hosts}
