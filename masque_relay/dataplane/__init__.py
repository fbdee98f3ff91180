"""Moves bytes: sockets towards targets, batched; names resolved once."""
