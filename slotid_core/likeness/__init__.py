"""How much the person in a video is like the person of a reference, measured face by face.

Three meters, chosen by name. Two follow the published scripts of ConsisID and OpenS2V-Eval to the letter and need
insightface with its non-commercial model packs; the third, dlib's, needs no download and no licence. Their figures are
not comparable with each other, and published figures not between papers.
"""

from .measure import Likeness, measure_likeness
from .meters import METERS, make_meter
from .report import likeness_plot
from .sampling import sampled_file, sampled_frames

__all__ = [
    "METERS",
    "Likeness",
    "likeness_plot",
    "make_meter",
    "measure_likeness",
    "sampled_file",
    "sampled_frames",
]
