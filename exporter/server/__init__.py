"""The server: sockets, processes and TLS. It serves the apps it is given, and knows no route."""
