"""Credential -> principal: one module for each kind of credential."""
