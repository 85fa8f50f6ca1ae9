"""Pure functions: arrays in, arrays out. No environment, no model, no hidden randomness."""
