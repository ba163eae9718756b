"""The command line: parses, calls one step, prints."""
