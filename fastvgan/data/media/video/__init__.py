"""Parts of reading a video file: which stream is the film, how its frames are shown, and whether the file is whole."""
