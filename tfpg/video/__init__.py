"""Recording episodes: playing, drawing, virtual displays, and video files written as a stream."""

# What can be drawn of a policy: first what every policy has, last what few have.
OVERLAYS = ("caption", "action", "bars", "value", "entropy", "epsilon", "saliency")
