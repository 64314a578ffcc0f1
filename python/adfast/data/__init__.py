"""Where images come from: folders in the MVTec layout, and generated scenes."""
