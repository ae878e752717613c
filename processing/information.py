"""Propositional information of pixels: what is there, whoever asks. Pure numpy, no weights.

Every measure takes a stack of gray tiles `(tiles, height, width)` with values in [0, 1] and returns one float per
tile; a whole image is a stack of one. Plain entropy alone misjudges three pictures: noise (many bits, nothing to
read), repeated words (few bits, all of them readable, few of them new) and a spatial puzzle (many bits, every one
needed). Together the measures below tell them apart:

- `shannon_entropy`: how many gray levels are in use, the upper bound of what a tile can say.
- `edge_density`: how much of a tile is edges of drawn things.
- `coherence`: do neighbouring pixels agree, as in drawings and unlike in noise?
- `extractability`: strokes, that is few strong edges in both directions with flat runs between them.
- `semantic_density`: is the content new everywhere, or does the tile repeat itself?
- `spatial_necessity`: does every block differ from its neighbours in both directions?

`compression_ratio` combines them for a tile, `image_compression_ratio` for an image, and `information_map` scores
each cell of an image with the cheap ones among them.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


MIN_RATIO, MAX_RATIO = 1.5, 20.0

# Differences of neighbouring pixels below this are the texture of paper and the noise of scanners.
_EDGE_THRESHOLD = 0.05
# Variance that light paper texture has by itself: a standard deviation of 4 gray levels of 255.
_PAPER_VARIANCE = (4 / 255) ** 2
# Edges, in mean difference above the threshold per pixel, that count as half of "full of edges"; body text has more.
_HALF_EDGES = 0.03
# A finite sample of white noise agrees with itself by chance: what agrees less than this does not agree.
_CHANCE_AGREEMENT = 0.1

_CONTENT_WEIGHTS = {"text_likeness": 0.6, "edge_density": 0.2, "entropy": 0.2}
_NECESSITY_WEIGHT = 0.5
_MAP_BINS = 16
_MAP_BLOCKS = 4  # blocks along each side of a cell
_CHUNK_PIXELS = 1 << 16  # pixels worked on at a time, few enough for a processor's cache

_WINDOW = 256  # pixels a side of the windows that an image's compression ratio is measured in
_MAX_WINDOWS = 4  # windows along each side of an image, at most


class _Statistics(NamedTuple):
    """What the measures share, each `(tiles,)`."""

    variance: NDArray  # of the gray values
    agreeing: NDArray  # the part of the variance that neighbouring pixels share
    edges_x: NDArray  # mean difference of horizontal neighbours above the threshold
    edges_y: NDArray  # the same of vertical neighbours
    crowding: NDArray  # (mean |d|)^2 / mean d^2 of differences d: ~0.1 in a drawing, 2/3 in noise, 1 on a ramp


def shannon_entropy(tiles: NDArray, bins: int = 256) -> NDArray:
    """Entropy of each tile's gray levels: `-sum p log2 p` over a histogram (Shannon, 1948).

    Args:
        tiles: `(tiles, height, width)` gray in [0, 1].
        bins: Number of gray levels told apart; with 256 they are the levels of 8-bit images.

    Returns:
        `(tiles,)` bits, from 0 (one level only) to `log2(bins)`.
    """
    tiles = _as_tiles(tiles)
    count, pixels = len(tiles), tiles.shape[1] * tiles.shape[2]
    level = np.rint(tiles * (bins - 1)).astype(np.intp).reshape(count, pixels)  # (tiles, pixels)
    level += bins * np.arange(count)[:, None]
    share = np.bincount(level.ravel(), minlength=count * bins).reshape(count, bins) / pixels  # (tiles, bins)
    return (share * np.log2(1 / np.where(share > 0, share, 1))).sum(1)


def edge_density(tiles: NDArray) -> NDArray:
    """How full of edges a tile is: a saturating function of the pixel differences above the noise of a scan.

    Args:
        tiles: `(tiles, height, width)` gray in [0, 1].

    Returns:
        `(tiles,)` in [0, 1); 0 for blank paper and smooth shading. Noise is full of edges too: see `coherence`.
    """
    statistics = _statistics(_as_tiles(tiles))
    return _saturate(statistics.edges_x + statistics.edges_y, 2 * _HALF_EDGES)


def coherence(tiles: NDArray) -> NDArray:
    """Share of a tile's variance that neighbouring pixels have in common (their correlation, less what chance gives).

    Args:
        tiles: `(tiles, height, width)` gray in [0, 1].

    Returns:
        `(tiles,)` in [0, 1]: 0 for noise and for blank paper, about 0.5 for small print, 1 for smooth shading.
    """
    return _coherence(_statistics(_as_tiles(tiles)))


def extractability(tiles: NDArray) -> NDArray:
    """How readable a tile is: strokes have strong edges in both directions, but few, with flat runs between them.

    The geometric mean of the edges in the two directions leaves out rules and frames, which run in one; the crowding
    of the differences (equally large everywhere in noise, concentrated in a drawing) leaves out noise.

    Args:
        tiles: `(tiles, height, width)` gray in [0, 1].

    Returns:
        `(tiles,)` in [0, 1): 0 for blank paper, noise and shading, 0.5 to 0.8 for text.
    """
    return _extractability(_statistics(_as_tiles(tiles)))


def semantic_density(tiles: NDArray) -> NDArray:
    """How much of a tile's structure is new: structure that returns at another place of the tile is redundant.

    One minus the highest autocorrelation at a shift between an eighth and a half of the tile, times `structure`
    (so that noise, which never repeats, does not count). Smooth shading resembles itself at every shift.

    Args:
        tiles: `(tiles, height, width)` gray in [0, 1].

    Returns:
        `(tiles,)` in [0, 1]: 0 for blank paper, noise and repeated words, 0.5 and more for running text.
    """
    tiles = _as_tiles(tiles)
    _, height, width = tiles.shape
    centered = tiles - tiles.mean((1, 2), keepdims=True)
    # Padding by half a side keeps the shifts up to half a side free of wrap-around.
    padded = (height + height // 2, width + width // 2)
    spectrum = np.fft.rfft2(centered, s=padded)
    overlap = np.fft.irfft2(np.abs(spectrum) ** 2, s=padded)  # (tiles, *padded), entry [y, x]: product at that shift
    shift_y, shift_x = (np.abs(np.fft.fftfreq(side, 1 / side)).round() for side in padded)
    shared = np.outer(1 - shift_y / height, 1 - shift_x / width)  # share of the tile that overlaps with its shift
    far = (shift_y[:, None] >= height / 8) | (shift_x[None] >= width / 8)
    valid = far & (shift_y[:, None] <= height // 2) & (shift_x[None] <= width // 2)
    energy = (centered**2).sum((1, 2)) + tiles[0].size * _PAPER_VARIANCE
    redundancy = (overlap[:, valid] / shared[valid]).max(1, initial=0) / energy
    return _structure(_statistics(tiles)) * (1 - np.minimum(redundancy, 1))


def spatial_necessity(tiles: NDArray, block_sizes: tuple[int, ...] = (8, 16, 32)) -> NDArray:
    """How much depends on where things are: blocks that their neighbours to the side and above do not foretell.

    The mean square of the second difference of neighbouring blocks' mean gray, over its value if every block were a
    draw of its own (6 times the variance): 0 if neighbours are alike or change steadily (shading, stripes along one
    direction) or if blocks average out (noise, fine texture). Geometric mean of the two directions, the highest of the
    block sizes, times coherence so that noise does not count.

    Args:
        tiles: `(tiles, height, width)` gray in [0, 1].
        block_sizes: Sides of the blocks in pixels; sizes of which fewer than three fit a side are left out.

    Returns:
        `(tiles,)` in [0, 1].
    """
    tiles = _as_tiles(tiles)
    statistics = _statistics(tiles)
    needed = np.zeros(len(tiles), tiles.dtype)
    for size in block_sizes:
        if 3 * size <= min(tiles.shape[1:]):
            needed = np.maximum(needed, _block_difference(tiles, size, statistics.variance))
    return _structure(statistics) * needed


def compression_ratio(entropy: NDArray, extractability: NDArray, density: NDArray, necessity: NDArray) -> NDArray:
    """By how much the tokens of a tile may be cut.

    Two things forbid compression: that places matter (`necessity`), and content that is both readable and new
    (`extractability * density`). Either is enough, so they add up as probabilities do; a tile with less than one bit
    of entropy cannot need more than that share. The ratio falls geometrically from 20 (nothing needed) to 1.5.

    Args:
        entropy: `(tiles,)` bits, from `shannon_entropy`.
        extractability: `(tiles,)` in [0, 1].
        density: `(tiles,)` in [0, 1], from `semantic_density`.
        necessity: `(tiles,)` in [0, 1], from `spatial_necessity`.

    Returns:
        `(tiles,)` in [1.5, 20].
    """
    needed = np.minimum(entropy, 1) * (1 - (1 - necessity) * (1 - extractability * density))
    return np.clip(MAX_RATIO * (MIN_RATIO / MAX_RATIO) ** needed, MIN_RATIO, MAX_RATIO)


def image_compression_ratio(pixels: NDArray) -> float:
    """By how much the tokens of an image may be cut: the ratio that its windows of 256 pixels allow together.

    Each window asks for `1 / ratio` of its tokens, so the image's ratio is the harmonic mean of the windows'. At most
    4 x 4 windows, evenly spread, are looked at.

    Args:
        pixels: `(height, width)` gray in [0, 1].

    Returns:
        A number in [1.5, 20].
    """
    pixels = _as_tiles(np.asarray(pixels)[None])[0]
    sides = [min(_WINDOW, side) for side in pixels.shape]
    starts = [
        np.linspace(0, side - window, min(_MAX_WINDOWS, -(-side // window))).astype(int)
        for side, window in zip(pixels.shape, sides, strict=True)
    ]
    tiles = np.stack([pixels[y : y + sides[0], x : x + sides[1]] for y in starts[0] for x in starts[1]])
    ratios = compression_ratio(
        shannon_entropy(tiles), extractability(tiles), semantic_density(tiles), spatial_necessity(tiles)
    )
    return float(1 / np.mean(1 / ratios))


def information_components(pixels: NDArray, cell_size: int) -> dict[str, NDArray]:
    """The cheap measures of each cell, every one in [0, 1] and 0 for blank paper.

    Args:
        pixels: `(rows * cell_size, cols * cell_size)` gray in [0, 1].
        cell_size: Pixels a side of a cell (32 for Qwen3-VL, 28 for Qwen2.5-VL); a multiple of 4.

    Returns:
        Arrays `(rows * cols,)` float32, cells in raster order:
            - `"text_likeness"`: `extractability`.
            - `"edge_density"`: `edge_density`, times `structure`.
            - `"entropy"`: entropy of 16 gray levels over its maximum, no more than the coherent part of the variance
              can carry (a Gaussian has the most entropy of all distributions of one variance).
            - `"necessity"`: `spatial_necessity` of 4 x 4 blocks, or of the cell among its neighbours if higher.

    Raises:
        ValueError: If the sides are not multiples of `cell_size`, or `cell_size` not one of 4.
    """
    pixels = np.asarray(pixels, np.float32)
    if pixels.ndim != 2 or pixels.shape[0] % cell_size or pixels.shape[1] % cell_size or not pixels.size:
        raise ValueError(f"pixels must be (rows * {cell_size}, cols * {cell_size}), got shape {pixels.shape}")
    if cell_size % _MAP_BLOCKS:
        raise ValueError(f"cell_size must be a multiple of {_MAP_BLOCKS}, got {cell_size}")
    rows, cols = pixels.shape[0] // cell_size, pixels.shape[1] // cell_size
    grid = pixels.reshape(rows, cell_size, cols, cell_size).swapaxes(1, 2)  # (rows, cols, cell_size, cell_size)
    step = max(1, _CHUNK_PIXELS // (cols * cell_size**2))
    names = (*_CONTENT_WEIGHTS, "necessity", "mean", "variance")
    chunks: list[tuple[NDArray, ...]] = []
    for row in range(0, rows, step):
        tiles = np.ascontiguousarray(grid[row : row + step]).reshape(-1, cell_size, cell_size)
        statistics = _statistics(tiles)
        structure = _structure(statistics)
        # Every second pixel gives the same histogram for a quarter of the work.
        bits = shannon_entropy(tiles[:, ::2, ::2], _MAP_BINS)
        carried = 0.5 * np.log2(1 + 12 * (_MAP_BINS - 1) ** 2 * statistics.agreeing)
        edges = _saturate(statistics.edges_x + statistics.edges_y, 2 * _HALF_EDGES)
        necessity = _block_difference(tiles, cell_size // _MAP_BLOCKS, statistics.variance)
        chunks.append(
            (
                _extractability(statistics),
                edges * structure,
                np.minimum(bits, carried) / np.log2(_MAP_BINS),
                necessity * structure,
                _mean(tiles.reshape(len(tiles), -1)),
                statistics.variance,
            )
        )
    maps = {name: np.concatenate(parts) for name, parts in zip(names, zip(*chunks, strict=True), strict=True)}
    mean, variance = (maps.pop(name).reshape(rows, cols) for name in ("mean", "variance"))
    maps["necessity"] = np.maximum(maps["necessity"], _cell_difference(mean, variance).ravel())
    return {name: values.astype(np.float32) for name, values in maps.items()}


def information_map(pixels: NDArray, cell_size: int) -> NDArray:
    """Information of each cell, whoever asks: what it says, or that its place matters (see `compression_ratio`).

    `content + (1 - content) * necessity / 2` of `information_components`, where content is the weighted mean of
    text-likeness (0.6), edge density (0.2) and entropy (0.2). A cell's value depends on the cell's pixels and on the
    mean and variance of its eight neighbours.

    Args:
        pixels: `(rows * cell_size, cols * cell_size)` gray in [0, 1].
        cell_size: Pixels a side of a cell; a multiple of 4.

    Returns:
        `(rows * cols,)` float32 in [0, 1], cells in raster order; 0 for blank paper and about 0 for noise.
    """
    components = information_components(pixels, cell_size)
    content = np.sum([weight * components[name] for name, weight in _CONTENT_WEIGHTS.items()], 0, dtype=np.float32)
    return content + (1 - content) * _NECESSITY_WEIGHT * components["necessity"]


def _as_tiles(tiles: NDArray) -> NDArray:
    tiles = np.asarray(tiles)
    if tiles.ndim != 3 or min(tiles.shape[1:]) < 2:
        raise ValueError(f"tiles must be (tiles, height, width) with sides of at least 2 pixels, got {tiles.shape}")
    return tiles if np.issubdtype(tiles.dtype, np.floating) else tiles.astype(np.float32)


def _statistics(tiles: NDArray) -> _Statistics:
    """Moments of gray values and of neighbour differences, `(tiles, height, width)` -> `(tiles,)` each."""
    flat = tiles.reshape(len(tiles), -1)
    flat = flat - flat[:, :1]  # a float32 sum of squares about any value of the tile keeps the variance exact
    variance = np.maximum(_mean_square(flat) - _mean(flat) ** 2, 0)
    sizes, squares, edges = [], [], []
    for difference in (tiles[:, :, 1:] - tiles[:, :, :-1], tiles[:, 1:] - tiles[:, :-1]):
        difference = np.abs(difference, out=difference).reshape(len(tiles), -1)
        sizes.append(_mean(difference))
        squares.append(_mean_square(difference))
        difference -= _EDGE_THRESHOLD
        edges.append(_mean(np.maximum(difference, 0, out=difference)))
    square = squares[0] + squares[1]
    # E[d^2] = 2 (variance - covariance of neighbours), so noise, which neighbours do not share, drops out.
    agreeing = np.maximum(variance - square / 4 - _CHANCE_AGREEMENT * variance, 0) / (1 - _CHANCE_AGREEMENT)
    crowding = (sizes[0] ** 2 + sizes[1] ** 2) / np.maximum(square, np.finfo(square.dtype).tiny)
    return _Statistics(variance, agreeing, edges[0], edges[1], crowding)


def _mean(flat: NDArray) -> NDArray:
    return flat @ np.full(flat.shape[1], 1 / flat.shape[1], flat.dtype)


def _mean_square(flat: NDArray) -> NDArray:
    return np.einsum("ij,ij->i", flat, flat) / flat.shape[1]


def _saturate(values: NDArray, half: float) -> NDArray:
    return values / (values + half)


def _coherence(statistics: _Statistics) -> NDArray:
    return statistics.agreeing / (statistics.variance + _PAPER_VARIANCE)


def _structure(statistics: _Statistics) -> NDArray:
    """1 where something is drawn, 0 for noise and blank paper; small print (coherence 0.5) counts in full."""
    return np.minimum(2 * _coherence(statistics), 1)


def _extractability(statistics: _Statistics) -> NDArray:
    few = np.clip(2 - 3 * statistics.crowding, 0, 1)  # 1 up to a crowding of 1/3, 0 from that of noise on
    return _saturate(np.sqrt(statistics.edges_x * statistics.edges_y), _HALF_EDGES) * few


def _block_difference(tiles: NDArray, size: int, variance: NDArray) -> NDArray:
    """Second differences of neighbouring blocks' means in both directions, see `spatial_necessity`."""
    count, rows, cols = len(tiles), tiles.shape[1] // size, tiles.shape[2] // size
    cropped = tiles[:, : rows * size, : cols * size]
    lines = cropped.reshape(count, rows * size * cols, size) @ np.full(size, 1 / size, tiles.dtype)
    blocks = lines.reshape(count, rows, size, cols).mean(2)  # (tiles, rows, cols)
    squares = [(np.diff(blocks, 2, axis=axis) ** 2).mean((1, 2)) for axis in (1, 2)]
    return np.minimum(np.sqrt(squares[0] * squares[1]) / (6 * (variance + _PAPER_VARIANCE)), 1)


def _cell_difference(mean: NDArray, variance: NDArray) -> NDArray:
    """`_block_difference` of whole cells, each within its 3x3 neighbourhood, `(rows, cols)` -> `(rows, cols)`."""
    mean = mean.astype(np.float64)  # the variance below is a difference of large numbers
    around = _mean_around(variance) + _mean_around(mean**2) - _mean_around(mean) ** 2
    padded = np.pad(mean, 1, "edge")
    squares = [np.diff(padded[:, 1:-1], 2, axis=0) ** 2, np.diff(padded[1:-1], 2, axis=1) ** 2]
    return np.minimum(np.sqrt(squares[0] * squares[1]) / (6 * (np.maximum(around, 0) + _PAPER_VARIANCE)), 1)


def _mean_around(values: NDArray) -> NDArray:
    """Mean over the 3x3 neighbourhood inside the grid, `(rows, cols)` -> `(rows, cols)`."""
    rows, cols = values.shape
    padded, inside = np.pad(values, 1), np.pad(np.ones_like(values), 1)
    shifts = [np.s_[y : y + rows, x : x + cols] for y in range(3) for x in range(3)]
    return np.sum([padded[shift] for shift in shifts], 0) / np.sum([inside[shift] for shift in shifts], 0)
