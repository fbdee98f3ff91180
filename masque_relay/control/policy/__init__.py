"""The policy: who may reach what, when and how much of it."""

from masque_relay.control.policy.compile import CompiledPolicy
from masque_relay.control.policy.load import load_policy, parse_policy

__all__ = ["CompiledPolicy", "load_policy", "parse_policy"]
