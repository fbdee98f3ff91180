"""Bytes <-> values. Standard library only: no asyncio, socket, time or logging."""
