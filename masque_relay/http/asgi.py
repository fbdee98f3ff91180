"""Owns ``app``: the relay's web site for any stock ASGI server.

Try it with ``hypercorn masque_relay.http.asgi:app``. Such a server never sets ``http.connect``, so
no tunnel can be opened here: there is no gate to pass.
"""

from masque_relay.http.routes import build_site

app = build_site()
