"""What runs in the sandbox: the standard library only, sent there as source text."""
