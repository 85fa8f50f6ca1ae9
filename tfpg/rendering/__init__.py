"""Films: a virtual display where one is needed, streaming video files, recorded episodes."""
