"""The policy file: rules, their compiled form, addresses, explanations."""
