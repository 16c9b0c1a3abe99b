"""The command line: parses, calls one function a command, prints."""
