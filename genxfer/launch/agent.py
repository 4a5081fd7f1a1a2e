"""torchrun, which starts the ranks and all of them again when one has died: agent.py TORCHRUN'S OPTIONS... JOB_FILE.

A restarted group goes on from the newest checkpoint. Knows nothing of training.
"""

import os
import sys
import tempfile
from pathlib import Path

from genxfer.launch.lifeline import PARENT_VARIABLE, die_with_parent
from genxfer.leaving import end_with


def main() -> None:
    """Start the ranks and wait for them."""
    die_with_parent()
    os.environ[PARENT_VARIABLE] = str(os.getpid())
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "10")
    # Else it keeps one store for all attempts, in which ranks would call those that have died, on all interfaces.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    from torch.distributed.run import main as torchrun

    *options, job_file = sys.argv[1:]
    # Else it makes one among the temporary files and leaves it there; killed, it leaves this one to the end of the job.
    with tempfile.TemporaryDirectory(prefix="ranks-", dir=Path(job_file).parent) as logs:
        own = ["--log-dir", logs, "--monitor-interval", "0.2"]
        torchrun([*options, *own, "-m", "genxfer.launch.worker", job_file])


if __name__ == "__main__":
    end_with(main)
