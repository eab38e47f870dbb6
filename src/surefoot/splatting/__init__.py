"""Scenes of smooth translucent convexes, learned from posed photos and rendered from any view.

Start with `surefoot.data.posed_photos.read_posed_photos` (captures) and `exchange.read_convexes` (finished scenes).
"""
