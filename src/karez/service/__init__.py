"""The HTTP API: ask a dispatcher for spans of time, and see how far it is.

door.py      who calls, and whether they may          native.py    /api/v1/requests
limits.py    how long a body and a call may take      original.py  /raise-request and /tasks/{id}, as other software knows them
shield.py    what every answer has, and no answer says  probes.py  /healthz, /readyz, /metrics, /docs
desk.py      what is asked, checked and kept on the bus

`app.py` puts them together, `serving.py` listens, `wire.py` is the connection itself.
"""
