"""Several processes for one job, such as a training run, none of which outlives it.

    launcher.py     in the stage's process: starts the others, and passes on what the leading rank tells
    nodes.py        several hosts: how many, where they meet, which of them leads
    supervisor.py   between the two: ends everything when the stage's process is gone, however it went
    agent.py        torchrun (torch elastic), which starts the ranks and starts them again when one dies
    worker.py       a rank: does its part, and tells how it goes in lines of JSON
    lifeline.py     how a process asks the kernel to die with its parent
    proxies.py      how clients reach this machine's own servers where there is a proxy
    identity.py     which process it is, beyond its number: for the registry and the local stack

torchrun puts each rank into a session of its own, out of reach of whoever cancels, closes the terminal or kills the
stage; hence the chain. Knows jobs by what all have in common (`launcher.Job`), and nothing of stages.
"""
