"""What everything else stands on: arrays, files, memory, random numbers, TensorFlow."""
