"""The shared store: a Valkey or Redis server that several replicas write to.

A step reads, decides, and is committed by one script on the server, which first compares the versions of all
that was read. Numbers are added there, so that only steps on the same tasks ever meet.
"""
