"""Runs programs that nobody has read: one clean process each, isolated, bounded, and judged from outside."""
