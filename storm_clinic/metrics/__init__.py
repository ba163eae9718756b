"""Pure functions on arrays; the patient is the unit."""
