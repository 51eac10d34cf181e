"""From parsed callbacks to commits: batches, the group commit, and the replay of quarantined bodies."""
