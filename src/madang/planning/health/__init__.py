"""How accelerators and engines are, by what they show, and what becomes of ill ones."""
