"""What writes the instruction and how it learns."""
