"""Talk to a model: the HTTP API, the terminal chat, the web page."""
