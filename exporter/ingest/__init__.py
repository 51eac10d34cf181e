"""From parsed callbacks to commits: batches, the group commit, and the replay of quarantined bodies.

It does not know how a store works, nor HTTP, except the status of a recent rejection.
"""
