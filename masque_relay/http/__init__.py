"""HTTP front ends, the ASGI tunnel surface, and the routes behind the gate."""
