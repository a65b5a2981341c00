"""Data: sources of patches, packs, splits. `SOURCES` names every source; importing this costs no torch."""

from ssl_sat.data import spec
from ssl_sat.registry import Registry

SOURCES = Registry("data")
SOURCES.add("bigearthnet_v1", "ssl_sat.data.sources.bigearthnet:build_v1", spec.BigEarthNetV1Spec, version=1)
SOURCES.add("bigearthnet_v2", "ssl_sat.data.sources.bigearthnet_v2:build_v2", spec.BigEarthNetV2Spec, version=1)
SOURCES.add("eurosat_rgb", "ssl_sat.data.sources.eurosat:build_rgb", spec.EurosatRgbSpec, version=1)
SOURCES.add("eurosat_ms", "ssl_sat.data.sources.eurosat:build_ms", spec.EurosatMsSpec, version=1)
SOURCES.add("ucmerced", "ssl_sat.data.sources.ucmerced:build", spec.UcMercedSpec, version=1)
SOURCES.add("imagefolder", "ssl_sat.data.sources.imagefolder:build", spec.ImageFolderSpec, version=1)
SOURCES.add("npy", "ssl_sat.data.sources.npy:build", spec.NpySpec, version=1)
SOURCES.add("geotiff", "ssl_sat.data.sources.geotiff:build", spec.GeoTiffSpec, version=1)
SOURCES.add("scenes", "ssl_sat.data.sources.scenes:build", spec.ScenesSpec, version=1)
