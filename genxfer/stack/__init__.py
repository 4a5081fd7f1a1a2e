"""The local stack: Prefect's server, MLflow's, a worker, and with `--full` PostgreSQL and SeaweedFS, on 127.0.0.1.

Beside the pipeline: starts programs as processes and asks them over HTTP; imports no Prefect, MLflow or boto3, and
knows nothing of stages. Reading order: `settings.py` (which parts, ports and folder), `ports.py`, `credentials.py`,
`postgres.py`, `parts.py` (what each part is), `health.py`, `processes.py` (who is alive, how it ends), `running.py`
(the life of one part), `supervisor.py` and `warden.py` (the two processes that watch over all), `status.py`,
`commands.py` (what `genxfer up`, `down`, `status` and `env` do).
"""
