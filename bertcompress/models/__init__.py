"""Models on disk: the only code that reads and writes weights, configs and tokenizers."""
