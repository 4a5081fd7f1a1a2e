"""A flow whose task fails for one of three variants, one after the other and side by side; prints what was left.

At last the process of one of two is killed.

The store is used before, as by the stages that come before, and by the task.
"""

import json
import os
import signal

from flows.embedded import api_server, quiet_environment


def main() -> None:
    quiet_environment()
    with api_server() as server:
        from prefect import flow, task

        from genxfer.config import Params, parse_params
        from genxfer.errors import TrainingError
        from genxfer.pipeline import Context
        from genxfer.stages import local_context
        from genxfer.stages.comparison import variants
        from tasks.logs import connect_logs
        from tasks.side_by_side import for_each

        def look(context: Context) -> None:
            assert context.store.find("pretrain", "0" * 64) is None

        @task
        def work(params: Params, context: Context) -> str:
            look(context)
            if params.finetune.method == "freeze_g":
                os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does for want of memory
            if params.finetune.method == "freeze_d":
                raise TrainingError("the loss is not finite")
            return str(params.finetune.method)

        @flow
        def compare(only: str, at_once: int) -> list[str]:
            connect_logs()
            params, context = parse_params({"compare": {"methods": only.split()}}), local_context()
            look(context)
            return list(for_each(work, variants(params), context, at_once).values())

        server.wait()
        for at_once in (1, 2):
            print(json.dumps(compare("full freeze_d gradual", at_once)))
            try:
                compare("freeze_d", at_once)
            except TrainingError as error:
                print(json.dumps(str(error)))
        try:
            compare("full freeze_g", 2)
        except TrainingError as error:
            print(json.dumps(str(error)))


if __name__ == "__main__":
    main()
