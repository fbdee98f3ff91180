"""Measuring a running relay from outside, through tunnels to a UDP echo."""
