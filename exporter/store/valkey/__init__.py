"""The shared store: a Valkey or Redis server (or cluster) that several replicas of the exporter write to.

A transaction reads tasks with their versions and decides what to change. One script on the server commits it,
after it has compared the versions again. The script adds to counters itself, so only transactions on the same
tasks conflict.
"""
