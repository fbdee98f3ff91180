"""Decides: who someone is, what they may do, how much, and what is remembered of it."""
