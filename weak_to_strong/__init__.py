"""The sister methods, for an open student whose weights may be trained: W2SR, two-stage weak-to-strong reasoning, misfit."""
