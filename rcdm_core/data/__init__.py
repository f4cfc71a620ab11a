"""Sets of pictures: image folders and the embedded shapes."""
