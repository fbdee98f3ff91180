"""Owns the hypothesis profile: no deadline, because the machine is shared with other work."""

from hypothesis import settings

settings.register_profile("relay", deadline=None, max_examples=200)
settings.load_profile("relay")
