"""The command line: one command per verb, which parses, calls `vistune.api` and prints. English and Korean."""
