"""A brain without a tumour, as pure geometry: where grey matter, white matter, fluid and vessels are, in any head.

Everything is placed in millimetres about the centre of the head and only then sampled on a voxel grid, so that one seed
gives the same head whatever the volume's shape. The lobes are ellipsoids; cortex and sulci follow from the distance to
the pial surface and to the zero sheets of smooth noise, which fold like gyri do. Axes point as in the files: x to the
patient's left, y to the back, z up.
"""

import dataclasses
import functools

import numpy as np
import scipy.sparse

# The box that a head of the largest size fits in, and the voxel size of BraTS (SRI24 atlas space).
HEAD_BOX_MM = (150.0, 192.0, 145.0)
BRATS_VOXEL_MM = 1.0
# Half the width of the cube that noise is defined on; beyond it the border value goes on.
_NOISE_EXTENT_MM = 100.0
# Standard deviation of a cubic B-spline sum over a lattice of unit normals, averaged over all positions:
# (151/315)^(1/2) along each axis.
_SPLINE_STD = (151 / 315) ** 1.5


@dataclasses.dataclass(frozen=True)
class Grid:
    """The voxels of a volume with the head in the middle.

    Voxels are cubes of 1 mm, as in BraTS, or as much larger as it takes for the head to fit: 240x240x155 has 1 mm
    voxels, 96x96x80 has 2 mm.
    """

    shape: tuple[int, int, int]

    @property
    def voxel_mm(self) -> float:
        """Edge of a voxel."""
        return max(BRATS_VOXEL_MM, *(box / count for box, count in zip(HEAD_BOX_MM, self.shape, strict=True)))

    @property
    def affine(self) -> np.ndarray:
        """Voxel index to world, (4, 4): orientation LPS with the origin BraTS has, the volume's front right corner."""
        affine = np.diag([-self.voxel_mm, -self.voxel_mm, self.voxel_mm, 1.0])
        affine[1, 3] = (self.shape[1] - 1) * self.voxel_mm
        return affine

    @functools.cached_property
    def box(self) -> tuple[slice, slice, slice]:
        """The part of the volume that a head can be in; all the rest is background."""
        slices = []
        for count, extent in zip(self.shape, HEAD_BOX_MM, strict=True):
            margin = max(0, int((count - extent / self.voxel_mm) / 2) - 2)
            slices.append(slice(margin, count - margin))
        return tuple(slices)

    @functools.cached_property
    def axes(self) -> list[np.ndarray]:
        """Three float32 arrays that broadcast to the box: mm from the centre of the volume."""
        positions = [
            (np.arange(count)[part] - (count - 1) / 2).astype(np.float32) * np.float32(self.voxel_mm)
            for count, part in zip(self.shape, self.box, strict=True)
        ]
        return list(np.ix_(*positions))

    def ramp(self, distance: np.ndarray) -> np.ndarray:
        """Share of a voxel inside a surface, from the signed distance (mm, positive inside) of the voxel's centre."""
        return np.clip(0.5 + distance / np.float32(max(self.voxel_mm, 1.2)), 0.0, 1.0)


def smooth_noise(grid: Grid, rng: np.random.Generator, spacing_mm: float) -> np.ndarray:
    """Gaussian noise of unit variance with structures of about `spacing_mm`, float32 over the grid's box."""
    return _interpolate(grid, _lattice(rng, spacing_mm), spacing_mm)


def sheet_distance(grid: Grid, rng: np.random.Generator, spacing_mm: float) -> np.ndarray:
    """Distance in mm to the nearest zero sheet of smooth noise, to first order: |noise| / |its gradient|."""
    lattice = _lattice(rng, spacing_mm)
    slope = sum(np.square(_interpolate(grid, lattice, spacing_mm, derivative)) for derivative in range(3))
    return np.abs(_interpolate(grid, lattice, spacing_mm)) / np.sqrt(slope + np.float32(1e-6))


def _lattice(rng: np.random.Generator, spacing_mm: float) -> np.ndarray:
    # Its size depends on millimetres alone: the same draws whatever the voxels.
    size = int(2 * _NOISE_EXTENT_MM / spacing_mm) + 5
    return rng.standard_normal((size, size, size), dtype=np.float32) / np.float32(_SPLINE_STD)


def _interpolate(grid: Grid, lattice: np.ndarray, spacing_mm: float, derivative: int | None = None) -> np.ndarray:
    # Cubic B-splines are separable, so this is three products with matrices of four entries a row. Sparse products add
    # in a fixed order, which a threaded BLAS does not promise: the same seed shall give the same bytes.
    values = lattice  # axes in the order y, z, x, so that the last product leaves x, y, z in memory order
    for axis in (1, 2, 0):
        matrix = _spline_matrix(grid.axes[axis].ravel(), values.shape[0], spacing_mm, axis == derivative)
        rest = values.shape[1:]
        values = (matrix @ values.reshape(values.shape[0], -1)).reshape(-1, *rest)
        if axis != 0:
            values = np.ascontiguousarray(np.moveaxis(values, 0, -1))
    return values


def _spline_matrix(position_mm: np.ndarray, size: int, spacing_mm: float, derivative: bool) -> scipy.sparse.csr_array:
    inside = np.clip(position_mm, -_NOISE_EXTENT_MM, _NOISE_EXTENT_MM)
    knot = (inside + _NOISE_EXTENT_MM) / spacing_mm + 1.0
    first = np.floor(knot).astype(int)
    t = (knot - first).astype(np.float32)
    if derivative:
        weights = [-((1 - t) ** 2) / 2, (3 * t**2 - 4 * t) / 2, (-3 * t**2 + 2 * t + 1) / 2, t**2 / 2]
        weights = [weight / np.float32(spacing_mm) for weight in weights]
    else:
        weights = [(1 - t) ** 3 / 6, (3 * t**3 - 6 * t**2 + 4) / 6, (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6, t**3 / 6]
    columns = first[:, None] + np.arange(-1, 3)
    rows = np.repeat(np.arange(len(t)), 4)
    return scipy.sparse.csr_array((np.stack(weights, 1).ravel(), (rows, columns.ravel())), shape=(len(t), size))


@dataclasses.dataclass(frozen=True)
class Outline:
    """Which voxels are brain. All fields of a phantom are vectors over these voxels, in memory order.

    Attributes:
        grid: The volume.
        inside: Boolean mask over the grid's box.
        points: Position of the N brain voxels in mm, float32 (3, N).
        depth: Distance to the pial surface in mm, positive inside, float32 (N,).
        cerebellum: How much deeper a voxel is in the cerebellum than in the cerebrum and brain stem, in mm.
    """

    grid: Grid
    inside: np.ndarray
    points: np.ndarray
    depth: np.ndarray
    cerebellum: np.ndarray

    def noise(self, rng: np.random.Generator, spacing_mm: float) -> np.ndarray:
        """`smooth_noise` at the brain voxels."""
        return smooth_noise(self.grid, rng, spacing_mm)[self.inside]

    def sheets(self, rng: np.random.Generator, spacing_mm: float) -> np.ndarray:
        """`sheet_distance` at the brain voxels."""
        return sheet_distance(self.grid, rng, spacing_mm)[self.inside]

    def volume(self, values: np.ndarray, dtype: type) -> np.ndarray:
        """A vector over the brain voxels as a whole volume, 0 outside of the brain."""
        volume = np.zeros(self.grid.shape, dtype)
        volume[self.grid.box][self.inside] = values
        return volume


def draw_outline(grid: Grid, rng: np.random.Generator) -> Outline:
    """A head of random size and proportions."""
    scale = rng.uniform(0.94, 1.02, 3).tolist()
    x, y, z = (axis / factor for axis, factor in zip(grid.axes, scale, strict=True))
    side = np.abs(x)
    # Cerebrum, narrower in front and cut flat at the skull base; temporal lobes; brain stem; cerebellum.
    cerebrum = _ellipsoid((side * (1 - 0.0016 * y), y, z), (0, 0, 8), (69, 91, 60))
    cerebrum = _smooth_min(cerebrum, z + (24 + 0.08 * y), 8)
    cerebrum = _smooth_max(cerebrum, _ellipsoid((side, y, z), (41, -2, -24), (25, 47, 23)), 3)
    cerebrum = _smooth_max(cerebrum, _ellipsoid((x, y, z), (0, 18, -36), (15, 14, 31)), 6)
    cerebellum = _ellipsoid((side, y, z), (21, 52, -41), (31, 27, 24))
    depth = np.maximum(cerebrum, cerebellum)
    depth = depth + 1.6 * smooth_noise(grid, rng, 24) + 0.7 * smooth_noise(grid, rng, 10)
    inside = depth > 0
    points = np.stack([np.broadcast_to(axis, depth.shape)[inside] for axis in (x, y, z)])
    return Outline(grid, inside, points, depth[inside], (cerebellum - cerebrum)[inside])


@dataclasses.dataclass(frozen=True)
class Head:
    """Healthy tissue: shares of a voxel between 0 and 1 that add up to 1, vectors over the outline's voxels.

    Attributes:
        white, grey, fluid, vessel, choroid: Shares; fluid is CSF of ventricles and sulci, choroid the plexus.
        gliosis: Share of aged white matter, which is bright on T2f without being tumour: caps about the ventricles and
            spots.
        ventricle_distance: Distance to the ventricles' wall in mm, positive outside of them.
    """

    white: np.ndarray
    grey: np.ndarray
    fluid: np.ndarray
    vessel: np.ndarray
    choroid: np.ndarray
    gliosis: np.ndarray
    ventricle_distance: np.ndarray


def draw_head(outline: Outline, rng: np.random.Generator, displaced: np.ndarray, aged: float = 0.0) -> Head:
    """Folds a cortex into the outline and places what lies deep in it.

    Args:
        outline: The brain voxels.
        rng: Draws folds, atrophy, the ventricles' size and the vessels.
        displaced: Where each voxel would lie without the mass effect of a tumour, mm, (3, N).
        aged: How much gliosis there is beyond the usual, from 0 to 1.
    """
    grid, depth = outline.grid, outline.depth
    sulcus, crossing, thickness = outline.sheets(rng, 8), outline.sheets(rng, 16), outline.noise(rng, 12)
    warped = displaced + 2.5 * np.stack([outline.noise(rng, 32) for _ in range(3)])
    x, y, z = warped
    side = np.abs(x)
    sulcal_mm, gap_mm, ventricle_size = rng.uniform((14, 0.4, 0.8), (20, 1.2, 1.5)).tolist()
    cap_mm, spot_level = rng.uniform((0.5, 2.2), (3.0, 3.2)).tolist()

    # Distance to the fluid of sulci and fissure. Sulci end at a depth, the fissure at the corpus callosum.
    core = _ellipsoid((side, y, z), (0, 5, -8), (26, 44, 28))
    folds = np.hypot(sulcus, np.maximum(np.maximum(depth - sulcal_mm, core), 0))
    callosum = np.hypot((y - 5) / 52, (z + 6) / 30) - 1
    fissure = np.where(callosum > 0, side, np.hypot(side, 30 * callosum))
    cerebral = np.minimum(np.minimum(depth, folds), fissure)
    # The cerebellum's folia: thin concentric leaves.
    leaf = np.abs(np.mod(np.hypot(y - 38, z + 36) / 7 + 0.15 * thickness, 1) - 0.5) * 7
    leaves = np.minimum(depth, np.where(depth < 16, leaf, 16))
    in_cerebellum = outline.cerebellum > 0
    brain_stem = (side < 17) & (z < -22) & ~in_cerebellum
    tentorium = 0.5 * np.abs(outline.cerebellum)
    pial = np.minimum(np.where(in_cerebellum, leaves, cerebral), tentorium)
    pial = np.where(brain_stem, depth + 1.5, pial)

    ventricles = ventricle_distance(warped, ventricle_size)
    plexus = _capsule((side, y, z), (19, 33, 11), (24, 41, 3), 2.6 * ventricle_size)
    deep = np.maximum.reduce([_ellipsoid((side, y, z), *nucleus) for nucleus in _NUCLEI])
    # Vessels: curves where two families of sheets cross near the surface, the sagittal sinus, the great vein.
    pipes = 1.1 - np.hypot(sulcus, crossing) - np.maximum(depth - 15, 0)
    sinus = np.where((y > -45) & (z > -12) & ~in_cerebellum, 3.2 - np.hypot(side, 0.8 * depth), -9)
    veins = np.maximum(_capsule(warped, (0, 8, 16), (0, 46, 12), 1.8), _capsule(warped, (0, 46, 12), (0, 82, -14), 2.2))

    vessel = grid.ramp(np.maximum.reduce([pipes, sinus, veins]))
    inside_ventricle = grid.ramp(-ventricles)
    choroid = inside_ventricle * grid.ramp(plexus) * (1 - vessel)
    gap = np.where(in_cerebellum, 0.3, gap_mm).astype(np.float32)
    fluid = np.maximum(inside_ventricle, grid.ramp(gap - pial)) * (1 - vessel - choroid)
    cortex = grid.ramp(gap + 3.2 + 0.4 * thickness - pial) * grid.ramp(ventricles - 2)
    grey = np.maximum(cortex, grid.ramp(deep)) * (1 - vessel - choroid - fluid)
    white = 1 - vessel - choroid - fluid - grey
    cap_mm, spot_level = cap_mm + 3 * aged, spot_level - 0.8 * aged
    caps = np.maximum(cap_mm + thickness - ventricles, 3 * (outline.noise(rng, 8) - spot_level))
    gliosis = grid.ramp(caps) * white
    return Head(white - gliosis, grey, fluid, vessel, choroid, gliosis, ventricles)


# Thalamus, head of the caudate nucleus, putamen: centre and semi-axes in mm, mirrored to the other side.
_NUCLEI = (((11, 10, 4), (8, 15, 9)), ((12, -20, 10), (5, 11, 8)), ((26, -4, 2), (6, 17, 10)))
# The lateral ventricle as a chain of tubes, mirrored to the other side: two ends in mm, radius.
_LATERAL_VENTRICLE = (
    ((13, -32, 8), (9, -16, 15), 4.2),
    ((9, -16, 15), (10, 12, 19), 4.0),
    ((10, 12, 19), (22, 36, 10), 4.6),
    ((22, 36, 10), (25, 58, 4), 2.8),
    ((22, 36, 10), (33, 8, -16), 2.2),
)


def ventricle_distance(points: np.ndarray, size: float) -> np.ndarray:
    """Distance from points (3, N) in mm to the ventricles, negative inside; `size` scales their width."""
    x, y, z = points
    mirrored = (np.abs(x), y, z)
    lateral = [_capsule(mirrored, start, end, radius * size) for start, end, radius in _LATERAL_VENTRICLE]
    third = _capsule((x, y, 0.35 * z), (0, -8, 0), (0, 14, 0), 1.7 * size)
    fourth = _capsule(points, (0, 33, -42), (0, 35, -34), 3.2 * size)
    return -np.maximum.reduce([*lateral, third, fourth])


def _ellipsoid(points: tuple, centre: tuple, axes: tuple) -> np.ndarray:
    # Signed distance, positive inside, exact on the surface and to first order near it.
    scaled = [(point - c) / a for point, c, a in zip(points, centre, axes, strict=True)]
    radius = np.sqrt(sum(np.square(q) for q in scaled))
    slope = np.sqrt(sum(np.square(q / a) for q, a in zip(scaled, axes, strict=True)))
    return (1 - radius) * radius / np.maximum(slope, 1e-6)


def _capsule(points: tuple | np.ndarray, start: tuple, end: tuple, radius: float) -> np.ndarray:
    # Signed distance to a tube with round ends, positive inside.
    along = [e - s for s, e in zip(start, end, strict=True)]
    offset = [point - s for point, s in zip(points, start, strict=True)]
    t = np.clip(sum(o * a for o, a in zip(offset, along, strict=True)) / sum(a * a for a in along), 0, 1)
    return radius - np.sqrt(sum(np.square(o - t * a) for o, a in zip(offset, along, strict=True)))


def _smooth_max(a: np.ndarray, b: np.ndarray, width: float) -> np.ndarray:
    # Quadratic blend: the larger of the two, rounded off where they differ by less than `width`.
    blend = np.maximum(width - np.abs(a - b), 0)
    return np.maximum(a, b) + np.square(blend) / (4 * width)


def _smooth_min(a: np.ndarray, b: np.ndarray, width: float) -> np.ndarray:
    return -_smooth_max(-a, -b, width)
