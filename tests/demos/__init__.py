"""Demonstrations that need more than one machine, in network namespaces."""
