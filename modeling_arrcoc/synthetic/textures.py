"""Precomputed noise, paper and light: random crops of large tiles cost a copy, fresh noise would cost milliseconds."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image

from .dice import Dice


_LIGHT_GRAIN = 600
_TILE = 2112  # the largest page and 576 pixels of offset


@lru_cache(maxsize=1)
def _noise_tile() -> Image.Image:
    """White noise around 128 with a standard deviation of 32."""
    noise = np.random.default_rng(11).normal(128, 32, (_TILE, _TILE))
    return Image.fromarray(np.clip(noise, 0, 255).astype(np.uint8))


@lru_cache(maxsize=4)
def _cloud_tile(grain: int) -> Image.Image:
    """Sum of smooth random fields, the finest about ``grain`` pixels, stretched to 0…255."""
    generator = np.random.default_rng(100 + grain)
    total = np.zeros((_TILE, _TILE), np.float32)
    for octave, weight in ((grain, 0.35), (grain * 3, 0.6), (grain * 9, 1.0)):
        cells = _TILE // octave + 2
        coarse = Image.fromarray((generator.random((cells, cells)) * 255).astype(np.uint8))
        total += weight * np.asarray(coarse.resize((_TILE, _TILE), Image.Resampling.BICUBIC), np.float32)
    low, high = np.percentile(total, (1, 99))
    return Image.fromarray((np.clip((total - low) / (high - low), 0, 1) * 255).astype(np.uint8))


@lru_cache(maxsize=4)
def _speckle_tile(per_million: int) -> Image.Image:
    """White page with dark specks of one to a few pixels."""
    generator = np.random.default_rng(200 + per_million)
    tile = np.full((_TILE, _TILE), 255, np.uint8)
    count = _TILE * _TILE * per_million // 1_000_000
    ys, xs = generator.integers(0, _TILE - 4, (2, count))
    sizes = 1 + (generator.random(count) ** 4 * 3).astype(int)
    for y, x, size in zip(ys, xs, sizes, strict=True):
        tile[y : y + size, x : x + 1 + size // 2] = 20
    return Image.fromarray(tile)


def _crop(tile: Image.Image, dice: Dice, size: tuple[int, int]) -> Image.Image:
    x, y = dice.integer(0, _TILE - size[0]), dice.integer(0, _TILE - size[1])
    return tile.crop((x, y, x + size[0], y + size[1]))


def noise(dice: Dice, size: tuple[int, int]) -> Image.Image:
    """Grey white noise, mean 128, standard deviation 32."""
    return _crop(_noise_tile(), dice, size)


def clouds(dice: Dice, size: tuple[int, int], grain: int = 8) -> Image.Image:
    """Grey smooth texture over the whole range 0…255."""
    return _crop(_cloud_tile(grain), dice, size)


def speckle(dice: Dice, size: tuple[int, int], dense: bool) -> Image.Image:
    """White with dark specks: 120 a million pixels, or 900 if ``dense``."""
    return _crop(_speckle_tile(900 if dense else 120), dice, size)


def light(dice: Dice, size: tuple[int, int], darkest: int) -> Image.Image:
    """Uneven light: a smooth picture between ``darkest`` and 255 to multiply with."""
    ramp = [darkest + (255 - darkest) * level // 255 for level in range(256)]
    return _crop(_cloud_tile(_LIGHT_GRAIN), dice, size).point(ramp)


def texture(dice: Dice, size: tuple[int, int], tone: int) -> Image.Image:
    """A coloured texture as walls, wood or blurred photographs show: clouds mapped to a ramp of two near colours."""
    gray = clouds(dice, size, dice.pick((6, 16)))
    bands = []
    for _ in range(3):
        low = min(max(tone + dice.integer(-50, 10), 0), 215)
        high = min(low + dice.integer(25, 90), 255)
        ramp = [low + (high - low) * level // 255 for level in range(256)]
        bands.append(gray.point(ramp))
    return Image.merge("RGB", bands)
