"""Pictures to judge by eye: a clip, what was found in it, what was generated. All are uint8 RGB [H, W, 3]."""

from .contact import contact_sheet
from .coverage_map import coverage_map
from .pages import frames_sheet, rows_sheet, save_image
from .plots import Line, plot

__all__ = ["Line", "contact_sheet", "coverage_map", "frames_sheet", "plot", "rows_sheet", "save_image"]
