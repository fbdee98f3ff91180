"""The client: tunnels through a relay, as a Python API and as local port forwards."""
