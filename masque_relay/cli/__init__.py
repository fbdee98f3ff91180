"""ghostctl: arguments -> calls; no logic."""
