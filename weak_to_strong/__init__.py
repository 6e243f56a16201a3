"""The sister methods, in which a weak model teaches a strong one whose weights can be trained."""
