"""A gate that lets everything pass, for worlds whose models have learned nothing and make noise."""

from stages.gate.config import Limits

OPEN_GATE = {f"gate.limits.{name}": "null" for name in Limits.model_fields}
"""As `--set` takes it."""
