"""A flow of one real stage, twice, and of one that cannot run; prints what the tasks came to as JSON."""

import json
import sys
from pathlib import Path

from flows.embedded import api_server, quiet_environment


def main(images: Path) -> None:
    """Run in an empty folder; the packed images are of the folder `images`."""
    quiet_environment()
    with api_server() as server:
        from prefect import flow

        from genxfer.config import parse_params
        from genxfer.errors import GenxferError
        from genxfer.stages import local_context
        from tasks.logs import connect_logs
        from tasks.stages import dataset_source, finetune

        source = {"kind": "folder", "path": str(images)}
        target = {"kind": "folder", "path": str(images), "n_train": 2}
        params = parse_params({"dataset": {"source": source, "target": target}})

        @flow
        def one_stage() -> None:
            connect_logs()
            first = dataset_source(params, local_context())
            second = dataset_source(params, local_context(), wait_for=[first])
            states = [{"name": state.name, "message": state.message} for state in (first, second)]
            print(json.dumps({"states": states, "results": [state.result().state for state in (first, second)]}))
            finetune(params, local_context())

        server.wait()
        try:
            one_stage()
        except GenxferError as error:
            print(json.dumps({"error": str(error)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
