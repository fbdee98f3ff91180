"""The mesh over WebSocket, and over plain HTTPS requests where WebSocket is broken too."""
