"""The simulator: sends the callbacks of a random fleet, with faults, and computes the totals to expect."""
