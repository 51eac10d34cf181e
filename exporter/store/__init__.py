"""The stores: they keep tasks, the values of label sets and the quarantine."""
