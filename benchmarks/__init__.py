"""Side-by-side measurements with committed results; imports anything, imported by nobody."""
