"""The mesh as a peer sees it: identity, ways to a relay, calls, and end-to-end encryption."""
