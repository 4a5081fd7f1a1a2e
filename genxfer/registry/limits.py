"""What numbers the images of a model may be asked for with: read without torch, by the command line and by the sampler.

It travels with every registered version, as `sampler.py` does.
"""

from genxfer.errors import ParameterError

MAX_SEED = 2**32 - 1
MAX_TEMPERATURE = 10.0


def check_seed(seed: int) -> None:
    """Raise ParameterError where `seed` is out of range."""
    if not 0 <= seed <= MAX_SEED:
        raise ParameterError(f"seed is {seed}; allowed is 0 to {MAX_SEED}")


def check_temperature(temperature: float) -> None:
    """Raise ParameterError where `temperature` is out of range, or no number."""
    if not 0 <= temperature <= MAX_TEMPERATURE:
        raise ParameterError(f"temperature is {temperature}; allowed is 0 to {MAX_TEMPERATURE:g}")
