"""Foreign peers against the relay: what each one is, how to run it by hand, and a matrix."""
