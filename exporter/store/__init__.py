"""Where everything is kept that was answered 200: tasks, the values of label sets, the quarantine."""
