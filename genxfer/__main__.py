"""`python -m genxfer` is the command line."""

from genxfer.cli import command

command()
