"""From parsed callbacks to commits: batches, the group commit, and the replay of quarantined bodies.

The package does not know how anything is stored, nor HTTP, except the status of a recent rejection.
"""
