"""One person's face through a clip: found, followed, smoothed over time and cropped upright.

Crops are square and never rotated: how the head is held is part of the identity.
"""

from ..detectors import Box
from .coverage import Coverage
from .prepare import Faces, prepare_faces

__all__ = ["Box", "Coverage", "Faces", "prepare_faces"]
