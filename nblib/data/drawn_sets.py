"""The sets that the project draws, by name: no other set may be called so."""

from functools import partial

from nblib.data import phantom, places

DRAWN = {
    "phantom": (phantom.write_phantom, phantom.DRAWING),
    "places": (places.write_places, places.DRAWING),
    "places_middle": (partial(places.write_places, border="middle"), places.DRAWING),
    "places_outer": (partial(places.write_places, border="outer"), places.DRAWING),
}
"""What writes each of them, and the version of what it draws."""
