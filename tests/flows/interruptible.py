"""What `genxfer run` is: an embedded server, one flow that ends, and one that goes on until it is stopped."""

import sys
import time

from flows.embedded import api_server, quiet_environment


def report(what: str) -> None:
    """Tell the test where this process stands."""
    print(what, flush=True)


def main() -> None:
    quiet_environment()
    with api_server() as server:
        report(server.url)
        from prefect import flow, task

        server.wait()

        @task
        def step(seconds: float) -> float:
            if seconds:
                report("training")
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                sum(range(1000))
            return seconds

        @flow
        def scenario(seconds: float) -> None:
            step(seconds)

        scenario(0.0)
        scenario(300.0)


if __name__ == "__main__":
    main()
    sys.exit("nobody stopped this process")
