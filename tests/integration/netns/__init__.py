"""The relay across a bad network: two namespaces and an impaired path between them."""
