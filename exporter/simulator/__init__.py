"""The simulator: sends the callbacks of a random fleet, with faults, and computes the totals to expect.

It does not use the fold: it counts the events of the true histories, so that it can check the exporter.
"""
