"""Programs as objects: functions cut out of source text. Plain Python."""
