"""What passes along the line: records, protocols, the composer, the guard, settings. Imports nothing of ours."""
