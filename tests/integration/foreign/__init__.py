"""Foreign clients, fronts and targets against the relay: none of them is our code."""
