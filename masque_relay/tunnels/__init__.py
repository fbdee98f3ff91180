"""Tunnel sessions, sans I/O: one module for each tunnel kind."""
