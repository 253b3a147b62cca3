"""Programs as objects: functions, lexical tokens, scopes, variants that do the same or not. Python and NumPy alone."""
