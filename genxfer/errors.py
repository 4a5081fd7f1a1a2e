"""What can go wrong, as one tree; every message names the thing, the value, what is allowed and what to do.

    GenxferError          1  anything else: an input that is not there yet, a part of the stack that is not healthy
    ├── ParameterError    2  a wrong parameter or command line; nothing was written
    ├── DataError         3  images that cannot be read, or too few of them; DVC and Git, which tell versions of them
    ├── StoreError        4  the artifact store: disk full, a damaged object, no permission
    ├── TrainingError     5  training cannot go on: diverged, weights that do not fit
    └── RegistryError     6  MLflow: unreachable, no such model

The number is the exit code of the command line, which prints the message alone: a traceback is for our mistakes, not
for the user's. This module is the floor of the house: it imports nothing of genxfer.
"""

import difflib
from collections.abc import Iterable


class GenxferError(Exception):
    """A failure that is explained to the user by its message alone."""

    exit_code = 1


class ParameterError(GenxferError):
    """A parameter, or a combination of parameters, that cannot work."""

    exit_code = 2


class DataError(GenxferError):
    """Images, weights of a metric, or versions of them (DVC, Git) that cannot be read or used."""

    exit_code = 3


class StoreError(GenxferError):
    """The artifact store could not take or give an artifact."""

    exit_code = 4


class TrainingError(GenxferError):
    """A training run that cannot start from these weights, or cannot go on."""

    exit_code = 5


class RegistryError(GenxferError):
    """The experiment tracker or the model registry."""

    exit_code = 6


def nearest(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the known name closest to `name`, or an empty string when none is close."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {matches[0]!r}?" if matches else ""
