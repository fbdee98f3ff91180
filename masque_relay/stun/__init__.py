"""Bytes <-> values of STUN, TURN and ChannelData. Standard library only, no I/O."""
