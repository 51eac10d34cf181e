"""The server: sockets, processes and TLS. It runs the apps that it is given and has no routes of its own."""
