"""Training, testing and exporting, and what the command line tools share."""
