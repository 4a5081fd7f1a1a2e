"""Where runs are tracked and models are published: the only room that imports mlflow.

config.py    what is registered and where, without mlflow: a cached run must answer before mlflow is even imported
connection.py  a client that fails fast, keeps quiet, and explains what went wrong
tracking.py  runs that people watch while a model trains: a parent per flow run, a child per stage
models.py    a trained model becomes a registered version, once per fingerprint
served.py    the script that MLflow runs to serve a version; sampler.py, which it calls, travels with the weights
pull.py      samples drawn from a registered model or from a snapshot folder

The stages call this room; it knows nothing of params.yaml, the artifact store, Prefect or DVC.
"""
