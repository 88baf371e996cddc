"""Who is told, by which rule."""
