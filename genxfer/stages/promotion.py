"""What the front doors call to promote a challenger or to roll a champion back, and whom they tell.

`genxfer promote`, the flow `promote` and `genxfer rollback` mean the model of params.yaml unless they name another.
"""

from genxfer.alerts import send_alert
from genxfer.config import Params
from genxfer.registry.promotion import Outcome, promote, rollback


def promote_challenger(params: Params, name: str | None = None, dry_run: bool = False) -> Outcome:
    """Make the challenger the champion if the rule of `params` says so; raises RegistryError, ParameterError."""
    config = params.registration
    outcome = promote(name or config.name, config.alias, params.promote, dry_run)
    _tell(outcome)
    return outcome


def roll_back(params: Params, name: str | None, reason: str, dry_run: bool = False) -> Outcome:
    """Make the champion before the present one the champion again; raises RegistryError where there is none."""
    outcome = rollback(name or params.registration.name, reason, dry_run)
    _tell(outcome)
    return outcome


def _tell(outcome: Outcome) -> None:
    """Send `promoted` or `rolled back` to the webhook, where there is one and the champion is another now."""
    if outcome.dry_run or outcome.champion == outcome.former:
        return
    before = f" in place of version {outcome.former}" if outcome.former else ""
    text = f"genxfer: version {outcome.champion} of {outcome.name} is champion{before}. {outcome.reason}"
    send_alert(outcome.state, text, outcome.to_json())
