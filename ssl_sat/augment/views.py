"""From the integers of a pack to normalised views, one call a batch, on whatever device the batch is.

Order: crop, resize, flips, right angle and blur as two matrix products; radiometry in reflectance; normalisation
last. Draws depend on (seed, epoch, sample, view) alone.

Legend: N patches, C bands, V views, S image size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ssl_sat import bands as band_names
from ssl_sat.augment import cpu_kernel, display, radiometric
from ssl_sat.augment import geometric as geo
from ssl_sat.augment.draws import Draws, keys_of
from ssl_sat.augment.spec import AugmentSpec
from ssl_sat.precision import full_float32

CPU_CHUNK = 32  # samples whose pixels stay in the cache between operations; the result does not depend on it


class _Part(NamedTuple):
    """The wanted bands of one resolution group: where they stand in it and which channels of the view they become."""

    group: int
    height: int
    width: int
    take: list[int]
    place: list[int]


class Views:
    """`views(groups, rows_N, epoch) -> x_VNCHW` for training, `views.center(groups) -> x_NCHW` for evaluation.

    spec: the recipe. layout: (bands, height, width) of each resolution group, in the order of a batch's groups.
    bands: those the encoder reads, in its order; found by name among the layout's. Reflectance is
    (dn - offset) / scale; mean_C and std_C, per encoder band, are in reflectance (or display value).
    Raises ConfigError where bands are missing, or where RGB operations meet other bands.
    """

    def __init__(
        self,
        spec: AugmentSpec,
        layout: Sequence[tuple[Sequence[str], int, int]],
        *,
        bands: Sequence[str],
        scale: float,
        offset: float,
        mean_C: Sequence[float],
        std_C: Sequence[float],
        image_size: int,
        num_views: int = 2,
        seed: int = 0,
    ) -> None:
        self.spec, self.bands, self.image_size, self.num_views, self.seed = (
            spec,
            tuple(bands),
            image_size,
            num_views,
            seed,
        )
        if spec.rgb is not None:
            display.require_display_bands(self.bands, spec.name)
        if not len(mean_C) == len(std_C) == len(self.bands):
            raise ValueError(f"{len(mean_C)} means and {len(std_C)} deviations for {len(self.bands)} bands")
        self.height, self.width = max((height, width) for _, height, width in layout)
        self._parts = _plan(layout, self.bands)
        self._scale, self._offset = float(scale), float(offset)
        self._mean, self._std = torch.tensor(mean_C, dtype=torch.float32), torch.tensor(std_C, dtype=torch.float32)
        self._constants: dict[tuple[str, torch.device], Tensor] = {}
        self._compiled: Callable[..., Tensor] | None = None

    def compile(self, **options: Any) -> None:
        """Compile training views on devices other than a CPU, whose kernel is compiled anyway; one graph for a run.

        options: of torch.compile. Values differ from uncompiled ones by the order of summation.
        """
        self._compiled = torch.compile(self._dense, dynamic=False, fullgraph=True, **options)

    def gsd_out(self, gsd_m: float) -> float:
        """Ground sampling distance that the encoder sees in `center`, given that of the finest band."""
        return geo.gsd_out(gsd_m, self.height, self.width, self.image_size, self.spec.eval)

    @torch.no_grad()
    def __call__(self, groups: Sequence[Tensor], rows_N: Tensor, epoch: int) -> Tensor:
        """Return V views of each patch, (V, N, C, S, S), float32 and normalised."""
        if self._compiled is not None and not _sparse(rows_N.device):
            return self._by_compiled(groups, rows_N, epoch)
        shape = (self.num_views, len(rows_N), len(self.bands), self.image_size, self.image_size)
        out = torch.empty(shape, device=rows_N.device)
        shared = Draws(self.seed, epoch, "all", rows_N)
        draws_V = [Draws(self.seed, epoch, view, rows_N) for view in range(self.num_views)]
        with full_float32(rows_N.device):
            for part in self._chunks(rows_N):
                pixels = self._pixels(groups, part)
                frames_V = [self._frame(draws.part(part), shared.part(part)) for draws in draws_V]
                y_V = self._resampled(out[:, part], pixels, frames_V)
                for view, (y, draws) in enumerate(zip(y_V, draws_V, strict=True)):
                    x = self._painted(y, groups[0].dtype, draws.part(part))
                    if x.data_ptr() != out[view, part].data_ptr():
                        out[view, part] = x
        return out

    def _by_compiled(self, groups: Sequence[Tensor], rows_N: Tensor, epoch: int) -> Tensor:
        """The same, with what differs from epoch to epoch as a tensor, and constants made beforehand."""
        assert self._compiled is not None
        device = rows_N.device
        self._statistics(device)
        if self.spec.smoothing:
            self._neighbours(device)
        table = radiometric.noise_table(device) if self.spec.noise else None
        for wanted in self._parts:
            self._on(device, f"take {wanted.group}", wanted.take)
        self._on(device, "order", self._order())
        keys_VP = keys_of(self.seed, epoch, [*range(self.num_views), "all"])
        keys_VP = keys_VP.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else keys_VP.to(device)
        with full_float32(device):
            return self._compiled(list(groups), rows_N, keys_VP, table)

    def _dense(self, groups: list[Tensor], rows_N: Tensor, keys_VP: Tensor, table: Tensor | None) -> Tensor:
        """All views of a batch by matrix products, (V, N, C, S, S)."""
        pixels = self._pixels(groups, slice(None))
        shared = Draws(0, 0, "all", rows_N, keys_VP[-1])
        views = [Draws(0, 0, view, rows_N, keys_VP[view]) for view in range(self.num_views)]
        y_V = self._resampled(None, pixels, [self._frame(draws, shared) for draws in views])
        dtype = groups[0].dtype
        return torch.stack([self._painted(y, dtype, draws, table) for y, draws in zip(y_V, views, strict=True)])

    @torch.no_grad()
    def center(self, groups: Sequence[Tensor]) -> Tensor:
        """Return the one view of evaluation, (N, C, S, S), without any draw."""
        rows_N = torch.arange(len(groups[0]), device=groups[0].device)
        out = torch.empty((len(rows_N), len(self.bands), self.image_size, self.image_size), device=rows_N.device)
        with full_float32(rows_N.device):
            mean_C, std_C = self._statistics(rows_N.device)
            for part in self._chunks(rows_N):
                boxes = geo.center_boxes(rows_N[part], self.height, self.width, self.image_size, self.spec.eval)
                frame = _Frame(boxes, None, None, None, None)
                (y,) = self._resampled(out[None, part], self._pixels(groups, part), [frame])
                out[part] = (y - (self._offset + self._scale * mean_C)) / (self._scale * std_C)
        return out

    def _chunks(self, rows_N: Tensor) -> list[slice]:
        size = CPU_CHUNK if rows_N.device.type == "cpu" else max(len(rows_N), 1)
        return [slice(first, first + size) for first in range(0, len(rows_N), size)]

    def _on(self, device: torch.device, name: str, values: Tensor | list[int]) -> Tensor:
        """A constant on the device, copied there once: a copy in every step would make the host wait."""
        if (name, device) not in self._constants:
            self._constants[name, device] = torch.as_tensor(values).to(device)
        return self._constants[name, device]

    def _statistics(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, (C, 1, 1)."""
        mean, std = self._on(device, "mean", self._mean), self._on(device, "std", self._std)
        return mean[:, None, None], std[:, None, None]

    def _pixels(self, groups: Sequence[Tensor], part: slice) -> list[Tensor]:
        """The groups with wanted bands: as they are on a CPU, elsewhere the wanted bands in float32."""
        if _sparse(groups[0].device):
            return [groups[wanted.group][part] for wanted in self._parts]
        pixels = []
        for wanted in self._parts:
            x = groups[wanted.group][part]
            if wanted.take != list(range(x.shape[1])):
                x = x.index_select(1, self._on(x.device, f"take {wanted.group}", wanted.take))
            pixels.append(_unsigned(x).float())
        return pixels

    def _resampled(self, out_VNCSS: Tensor | None, pixels: list[Tensor], frames_V: list[_Frame]) -> list[Tensor]:
        """Every group through its own pair of matrices, for each view; bands in the encoder's order, (N, C, S, S).

        On a CPU the results are written into `out_VNCSS` itself, since fresh memory for every view costs more than its
        blur, and a band's views are made one after the other while its pixels are in the cache.
        """
        if _sparse(pixels[0].device):
            assert out_VNCSS is not None
            transpose_VN = [frame.transpose for frame in frames_V if frame.transpose is not None]
            for wanted, x in zip(self._parts, pixels, strict=True):
                rows, columns = self._taps(wanted, frames_V)
                cpu_kernel.separable_into(out_VNCSS, x, rows, columns, transpose_VN, wanted.take, wanted.place)
            return list(out_VNCSS)
        return [self._product(pixels, frame) for frame in frames_V]

    def _product(self, pixels: list[Tensor], frame: _Frame) -> Tensor:
        """One view by whole matrices."""
        matrices = [self._matrices(wanted, frame) for wanted in self._parts]
        y = torch.cat([geo.separable(x, *pair) for x, pair in zip(pixels, matrices, strict=True)], 1)
        if frame.transpose is not None:
            y = torch.where(frame.transpose[:, None, None, None], y.transpose(2, 3), y)
        order = self._order()
        return y if order == sorted(order) else y.index_select(1, self._on(y.device, "order", order))

    def _order(self) -> list[int]:
        """Where each of the encoder's bands stands among those of the groups, one after the other."""
        place = [k for wanted in self._parts for k in wanted.place]
        return sorted(range(len(place)), key=place.__getitem__)

    def _neighbours(self, device: torch.device) -> Tensor:
        if ("neighbours", device) not in self._constants:
            return self._on(device, "neighbours", radiometric.neighbour_matrix(self.bands))
        return self._constants["neighbours", device]

    def _matrices(self, wanted: _Part, frame: _Frame) -> tuple[Tensor, Tensor]:
        """W_y and W_x of one group: the box's share of its grid, then mirrors, then blur."""
        y, x = self._shares(wanted, frame.boxes)
        rows = geo.resample_matrix(*y, wanted.height, self.image_size)
        columns = geo.resample_matrix(*x, wanted.width, self.image_size)
        if frame.flip_y is not None and frame.flip_x is not None:
            rows, columns = geo.flip_rows(rows, frame.flip_y), geo.flip_rows(columns, frame.flip_x)
        return (rows, columns) if frame.blur is None else (frame.blur @ rows, frame.blur @ columns)

    def _taps(self, wanted: _Part, frames_V: list[_Frame]) -> tuple[cpu_kernel.Taps, cpu_kernel.Taps]:
        """What is not zero in these matrices, for all views, one after the other."""
        shares_V = [self._shares(wanted, frame.boxes) for frame in frames_V]
        y, x = ([torch.cat([share[axis][k] for share in shares_V]) for k in range(2)] for axis in range(2))
        flips = [(frame.flip_y, frame.flip_x) for frame in frames_V]
        flip_y, flip_x = (None if f[0] is None else torch.cat(f) for f in zip(*flips, strict=True))  # type: ignore[arg-type]
        blur = None if frames_V[0].blur is None else torch.cat([f.blur for f in frames_V])  # type: ignore[misc]
        return (
            cpu_kernel.resample_taps(y[0], y[1], wanted.height, self.image_size, flip_y, blur),
            cpu_kernel.resample_taps(x[0], x[1], wanted.width, self.image_size, flip_x, blur),
        )

    def _shares(self, wanted: _Part, boxes: geo.Boxes) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Start and length of the boxes on the grid of one group, downwards and across."""
        shrink_y, shrink_x = wanted.height / self.height, wanted.width / self.width
        return (boxes.top * shrink_y, boxes.height * shrink_y), (boxes.left * shrink_x, boxes.width * shrink_x)

    def _frame(self, draws: Draws, shared: Draws) -> _Frame:
        """Draw what one view shows of each patch, and which way up."""
        boxes = (
            geo.random_boxes(draws, self.height, self.width, self.spec.crop_scale, self.spec.crop_ratio)
            if self.spec.crop_scale
            else geo.center_boxes(draws.rows_N, self.height, self.width, self.image_size, self.spec.eval)
        )
        return _moved(boxes, self.spec, draws, shared, self.image_size)

    def _painted(self, y: Tensor, dtype: torch.dtype, draws: Draws, table: Tensor | None = None) -> Tensor:
        """Digital numbers as they were resampled to the finished view: colour, radiometry, normalisation."""
        x = self._coloured(y, dtype, draws) if self.spec.rgb is not None else y
        unit = (self._scale, self._offset) if self.spec.rgb is None else (1.0, 0.0)
        return self._finished(x, unit, self._white(dtype), draws, table)

    def _white(self, dtype: torch.dtype) -> float:
        """Reflectance (or value) that is shown as 1."""
        return 1.0 if self.spec.rgb is None or dtype == torch.uint8 else self.spec.rgb.white

    def _coloured(self, y: Tensor, dtype: torch.dtype, draws: Draws) -> Tensor:
        """RGB operations; digital numbers in, reflectance or display value out."""
        assert self.spec.rgb is not None
        white, upper = self._white(dtype), 1.0 if dtype == torch.uint8 else math.inf
        shown = y.sub_(self._offset).div_(self._scale * white)
        return display.colour(shown, self.spec.rgb, draws, upper) * white

    def _finished(
        self, y: Tensor, unit: tuple[float, float], white: float, draws: Draws, table: Tensor | None
    ) -> Tensor:
        """Reflectance is (y - unit[1]) / unit[0]; radiometry and normalisation in one affine map, then the rest."""
        spec, (scale, offset) = self.spec, unit
        mean, std = (value.view(1, -1) for value in self._statistics(y.device))
        gain_NC = torch.ones(y.shape[:2], device=y.device)
        offset_NC = torch.zeros_like(gain_NC)
        if spec.jitter:
            gain_NC, offset_NC = radiometric.jitter(spec, draws, (y.mean((2, 3)) - offset) / scale)
        offset_NC = offset_NC - gain_NC * (offset / scale)
        gain_NC = gain_NC / scale
        if spec.smoothing:
            mixing = radiometric.smoothing_matrix(spec, draws, self._neighbours(y.device)) / std[:, :, None]
            x = radiometric.affine(y, gain_NC, offset_NC, mixing).sub_((mean / std)[:, :, None, None])
        else:
            x = radiometric.affine(y, gain_NC / std, (offset_NC - mean) / std, None)
        if spec.noise:
            radiometric.add_noise(x, draws, spec.noise, spec.noise_sigma * white / std[0], table)
        if spec.band_drop:
            x.mul_(radiometric.keep_bands(draws, spec.band_drop, len(self.bands))[:, :, None, None])
        return radiometric.cut_out(x, draws, spec.cutout, spec.cutout_px) if spec.cutout else x


def _unsigned(x: Tensor) -> Tensor:
    """int16 holds the bits of uint16, which the compiler does not know everywhere."""
    if x.dtype != torch.int16:
        return x
    return x.to(torch.int32) & 0xFFFF if torch.compiler.is_compiling() else x.view(torch.uint16)


def _sparse(device: torch.device) -> bool:
    """Whether the kernel that visits only the taps is used instead of whole matrix products."""
    return device.type == "cpu"


class _Frame(NamedTuple):
    """Where a view is cut out, and what happens to it: mirrored axes, transposition, blur; None where there is none.

    The blur is its taps (N, T) on a CPU, elsewhere its matrix (N, S, S).
    """

    boxes: geo.Boxes
    flip_y: Tensor | None
    flip_x: Tensor | None
    transpose: Tensor | None
    blur: Tensor | None


def _moved(boxes: geo.Boxes, spec: AugmentSpec, draws: Draws, shared: Draws, image_size: int) -> _Frame:
    flip_y, flip_x = draws.chance("flip-y", spec.flip_vertical), draws.chance("flip-x", spec.flip_horizontal)
    transpose = blur = None
    if spec.rot90 != "no":
        turns_N = (shared if spec.rot90 == "shared" else draws).integers("turns", 4)
        turn_y, turn_x, transpose = geo.turn_flips(turns_N)
        flip_y, flip_x = flip_y ^ turn_y, flip_x ^ turn_x
    if spec.blur:
        sigma_N = draws.uniform("blur-sigma", low=spec.blur_sigma[0], high=spec.blur_sigma[1])
        taps_NT = geo.blur_taps(sigma_N, draws.chance("blur", spec.blur), spec.blur_kernel)
        blur = taps_NT if _sparse(taps_NT.device) else geo.blur_matrix(taps_NT, image_size)
    return _Frame(boxes, flip_y, flip_x, transpose, blur)


def _plan(layout: Sequence[Any], bands: tuple[str, ...]) -> list[_Part]:
    """Which bands to take from which group, and which channels of the view they become."""
    present = [name for names, _, _ in layout for name in names]
    group_of = [at for at, (names, _, _) in enumerate(layout) for _ in names]
    inside = [at for names, _, _ in layout for at in range(len(names))]
    wanted = band_names.positions(bands, present)
    parts = []
    for group, (_, height, width) in enumerate(layout):
        place = [k for k, position in enumerate(wanted) if group_of[position] == group]
        if place:
            parts.append(_Part(group, height, width, [inside[wanted[k]] for k in place], place))
    return parts
