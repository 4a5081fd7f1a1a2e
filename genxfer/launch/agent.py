"""torchrun, which starts the ranks and all of them again when one has died: agent.py PROCESSES RESTARTS JOB_FILE.

A restarted group goes on from the newest checkpoint. Knows nothing of training.
"""

import os
import sys

from genxfer.launch.lifeline import PARENT_VARIABLE, die_with_parent


def main() -> None:
    """Start the ranks and wait for them."""
    die_with_parent()
    os.environ[PARENT_VARIABLE] = str(os.getpid())
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "10")
    from torch.distributed.run import main as torchrun

    processes, restarts, job_file = sys.argv[1:]
    group = ["--standalone", "--nproc-per-node", processes, "--max-restarts", restarts, "--monitor-interval", "0.2"]
    torchrun([*group, "-m", "genxfer.launch.worker", job_file])


if __name__ == "__main__":
    main()
