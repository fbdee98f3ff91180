"""The server composition root: builds, supervises, reloads and drains everything."""
