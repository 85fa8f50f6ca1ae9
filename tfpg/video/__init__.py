"""Recording episodes: playing, drawing, virtual displays, and video files written as a stream."""

# From overlays that every policy has to overlays that few have.
OVERLAYS = ("caption", "action", "bars", "value", "entropy", "epsilon", "saliency")
