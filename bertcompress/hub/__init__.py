"""The client's side of the Hub: downloads, failures in words, transfers that are watched."""
