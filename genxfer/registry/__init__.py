"""The registry: where runs are watched and models are published, and the only room that imports mlflow.

config.py      what is registered, and in which store: data, read without mlflow
connection.py  a client that fails fast, keeps quiet, and explains what went wrong
runs.py        runs as plain functions: the parent of a flow run, and cleaning up after killed processes
tracking.py    one stage's run, which people watch while the stage works
packaging.py   a model's files in MLflow's form, without pickle
models.py      a model becomes a registered version, once per fingerprint
served.py      the script that MLflow runs to serve a version; sampler.py, which it calls, travels with the weights
lineage.py     which results of stages the versions and the recent runs refer to
rule.py        whether a challenger takes the champion's place: numbers in, a decision out
promotion.py   asks the rule, and carries out what it says; rollback
champions.py   the order of champions, the aliases, and what is written on the versions
loading.py     whether versions can be used, each in a process of its own; draw_check.py is what runs there
pull.py        the nets of a registered model or of a snapshot folder, for the verbs that draw
onnx_export.py the same nets as an ONNX file, checked against torch; onnx_graph.py, what is in it

mlflow is imported inside functions, when there is something to say to it. The room knows nothing of params.yaml, the
artifact store, Prefect or DVC.
"""
