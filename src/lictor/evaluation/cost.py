"""What the settings of a curve cost, measured one after the other and kept with the curve."""

from collections.abc import Sequence
from dataclasses import replace

from lictor.comparison.curve import Curve
from lictor.data.places import load_picture
from lictor.evaluation.contenders import Contender
from lictor.evaluation.speed import measure_speed
from lictor.evaluation.sweep import Picture

SPEED, NUM_PICTURES, REPEATS = "speed", 3, 5


def with_speed(
    curve: Curve,
    contender: Contender,
    pictures: Sequence[Picture],
    *,
    num_pictures: int = NUM_PICTURES,
    repeats: int = REPEATS,
) -> Curve:
    """Return the curve with `codec["speed"]`: `Speed.to_json()` of each of its settings.

    The first `num_pictures` pictures are taken. Raises what the codec raises.
    """
    images = [load_picture(picture.path) for picture in pictures[:num_pictures]]
    speed = {}
    for setting in contender.settings:
        if setting.label in curve.settings:
            measured = measure_speed(setting.make(), images, repeats=repeats, make=setting.make)
            speed[setting.label] = measured.to_json()
    return replace(curve, codec={**curve.codec, SPEED: speed})
