"""Stages as Prefect tasks: one thin wrapper each, plus what Prefect is shown and told. Decisions are the library's."""
