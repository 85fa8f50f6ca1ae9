"""The foundation of everything else: arrays, files, memory, random numbers, TensorFlow."""
