"""One HTML file, or a folder of pictures, about several runs."""
