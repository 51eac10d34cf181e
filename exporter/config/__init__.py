"""What can be set: flags and their values, files that change while the program runs, the log."""
