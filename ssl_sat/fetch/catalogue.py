"""What is published where: addresses, sizes, checksums and limits of the data sets that `ssl_sat.download` fetches.

Where a checksum comes from stands beside it, in `origin`. Zenodo shows an MD5 for every file; those here were taken
from public code that quotes them (torchgeo among others), and agree in all of it. Sizes after unpacking are counts
times the size of a patch in real samples, on blocks of 4 KiB; they serve the check of free space and the limits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_ZENODO = "https://zenodo.org/records"
_EUROSAT_LISTS = "https://hf.co/datasets/torchgeo/eurosat/resolve/1ce6f1bfb56db63fd91b6ecc466ea67f2509774c"
_BEN_COMMIT = "2010779b6efc97eaf0f189d2cbdf8a3af75b71ba"
_BEN_LISTS = f"https://raw.githubusercontent.com/kai-tub/bigearthnet_common/{_BEN_COMMIT}/src/bigearthnet_common"
_MARGIN = 1.25  # limits lie this far above the sizes known


@dataclass(frozen=True)
class Remote:
    """One published file: its addresses in the order in which they are tried, exact size and checksums (hex).

    `folder` is where it goes below the destination.
    """

    name: str
    addresses: tuple[str, ...]
    size: int
    md5: str
    sha256: str | None
    origin: str
    folder: str = ""

    @property
    def checksums(self) -> dict[str, str]:
        """Algorithm -> hexadecimal digest, of those that are known."""
        return {"md5": self.md5} | ({"sha256": self.sha256} if self.sha256 else {})


@dataclass(frozen=True)
class Limits:
    """What unpacking may produce at most: entries, bytes, and bytes per byte of the archive."""

    entries: int
    size: int
    ratio: float = 20.0


@dataclass(frozen=True)
class Archive:
    """A published archive that unpacks to the folder `top`: `files` of them, `size` bytes, `on_disk` with blocks."""

    remote: Remote
    top: str
    files: int
    size: int
    on_disk: int
    limits: Limits


@dataclass(frozen=True)
class DataSet:
    """A data set by its name in `data=`: one archive and the lists or tables beside it."""

    archive: Archive
    lists: tuple[Remote, ...]
    patches: int
    licence: str
    page: str
    note: str = ""

    @property
    def remotes(self) -> tuple[Remote, ...]:
        """All files, the small ones first: a mistake there shows before gigabytes are fetched."""
        return (*self.lists, self.archive.remote)


def _archive(remote: Remote, top: str, files: int, folders: int, bytes_each: float, blocks_each: int) -> Archive:
    size = round(files * bytes_each)
    limits = Limits(round((files + folders) * _MARGIN) + 100, round(size * _MARGIN))
    return Archive(remote, top, files, size, files * blocks_each + folders * 4096, limits)


def _list(base: str, name: str, size: int, md5: str, sha256: str, origin: str, folder: str = "") -> Remote:
    return Remote(name, (f"{base}/{name}",), size, md5, sha256, origin, folder)


_TORCHGEO_LISTS = "MD5 in torchgeo (datasets/eurosat.py); SHA-256 computed from files with that MD5"
_EUROSAT_SPLITS = tuple(
    _list(_EUROSAT_LISTS, f"{name}.txt", size, md5, sha256, _TORCHGEO_LISTS, "eurosat_splits")
    for name, size, md5, sha256 in (
        ("eurosat-train", 313605, "908f142e73d6acdf3f482c5e80d851b1",
         "1c1d2e855f95deee605a3d992f914d113fddbecf422ec61648057d029a37d695"),
        ("eurosat-val", 104659, "95de90f2aa998f70a3b2416bfe0687b4",
         "b385741f31daa9f1250cf1e1fe03adfab394e1172e0693df40141af004f60330"),
        ("eurosat-test", 104163, "7ae5ab94471417b6e315763121e67c5f",
         "cf37948894c12bd953930ff54ee9b7abf0b31478abb8d25fd2c6c721db74c592"),
        ("eurosat-spatial-train", 316710, "7be3254be39f23ce4d4d144290c93292",
         "2db7d455afb8dcbca898ea19a00f1f90c091734efdbba89e22aaf24056da243f"),
        ("eurosat-spatial-val", 99786, "acf392290050bb3df790dc8fc0ebf193",
         "6c758477604b7057a0fd990d7f6327b63b99a6725aac11a6a9d0174a7fdd8f0b"),
        ("eurosat-spatial-test", 105934, "5ec1733f9c16116bf0aa2d921fc613ef",
         "de22dec83d350cac3b3e4ca8e285cb6733c81ab94bf5bcf9213a567993402452"),
    )
)  # fmt: skip

_PINNED = f"computed from kai-tub/bigearthnet_common at commit {_BEN_COMMIT[:8]}, which git addresses by hash"
_V1_LISTS = tuple(
    _list(_BEN_LISTS, f"{name}.csv.bz2", size, md5, sha256, _PINNED)
    for name, size, md5, sha256 in (
        ("train", 587093, "a926421a174aca10eaac4ce0194880cf",
         "6b20da99022efe4212fa2765161dcfcff944b18561c91017b1d5d40d0bfc712e"),
        ("val", 298507, "f9e8d663d68ca10595700147e833adf9",
         "9281aedab12a3bae18ebcfcaba312d97f2e45325741f43607074f15425566fa8"),
        ("test", 304440, "a3f9c6e86d1b276d2b1b5daa4054b6fd",
         "8d978918d3a9690270ca32da36177da253403457c41c51fa3930a9080d0250ae"),
        ("patches_with_seasonal_snow", 143027, "09bff84e0a91d1f84128dcc8949335e1",
         "385ee3cf7bff85561f791da309acb231d02054090a721434d21e4ecb1c39b9c9"),
        ("patches_with_cloud_and_shadow", 22002, "20c1f08e43e995d301872869e2ea7940",
         "eece39b7723d882ac412247b6bece8688181b97bc28dafe30bb9687be8baf54e"),
    )
)  # fmt: skip

_ZENODO_V2 = f"{_ZENODO}/10891137/files"
_V2_TABLES = (
    _list(_ZENODO_V2, "metadata.parquet", 3616349, "55687065e77b6d0b0f1ff604a6e7b49c",
          "408911df2da7092da9ecc72071972a808ec486ba09f6cb048f7716793d14ded6",
          "MD5 of Zenodo, also in torchgeo (datasets/bigearthnet.py); SHA-256 computed from the file with that MD5"),
    _list(_ZENODO_V2, "metadata_for_patches_with_snow_cloud_or_shadow.parquet", 710162,
          "fe31856f4986d446c9468b59d6387c91", "b6842b35359dfb5281dd92c674211fd4882f7865f0b442ebfec92daea6371c4e",
          "MD5 of Zenodo; SHA-256 computed from the file with that MD5"),
)  # fmt: skip

_EUROSAT_RGB = Remote(
    "EuroSAT_RGB.zip", (f"{_ZENODO}/7711810/files/EuroSAT_RGB.zip",), 94_658_721, "f46e308c4d50d4bf32fedad2d3d62f3b",
    "b4f5b234ecb7d7ff9c6cddb046543b4717c53fd6e9815be6c0e80cc614f51b90",
    "MD5 of Zenodo; SHA-256 quoted beside it in public code",
)  # fmt: skip
_EUROSAT_MS = Remote(
    "EuroSAT_MS.zip", (f"{_ZENODO}/7711810/files/EuroSAT_MS.zip",), 2_065_402_329, "091174add3c8e680a49244acf185b9f0",
    None, "MD5 of Zenodo",
)  # fmt: skip
_BIGEARTHNET_V1 = Remote(
    "BigEarthNet-S2-v1.0.tar.gz", (f"{_ZENODO}/12687186/files/BigEarthNet-S2-v1.0.tar.gz",), 70_032_164_579,
    "5a64e9ce38deb036a435a7b59494924c", "58744cf96b8cf02a7bd339a4a9602deea774ae98c6fe209f0d48d7ee0eef5700",
    "MD5 in torchgeo (datasets/bigearthnet.py); SHA-256 in tensorflow_datasets (datasets/bigearthnet/checksums.tsv)",
)  # fmt: skip
_BIGEARTHNET_V2 = Remote(
    "BigEarthNet-S2.tar.zst", (f"{_ZENODO_V2}/BigEarthNet-S2.tar.zst",), 63_251_710_377,
    "2245ed2d1a93f6ce637d839bc856396e", None, "MD5 of Zenodo",
)  # fmt: skip
_UCMERCED = Remote(
    "UCMerced_LandUse.zip",
    ("http://weegee.vision.ucmerced.edu/datasets/UCMerced_LandUse.zip",
     "https://hf.co/datasets/torchgeo/ucmerced/resolve/7c5ef3454d9b1cccfa7ccde0c01fc8f00a45909a/UCMerced_LandUse.zip"),
    332_468_434, "5b7ec56793786b6dc8a908e8854ac0e4",
    "06c539ef28703a58fb07bd2837991ac7c48b813b00bb12ac197efd813a18daeb",
    "MD5 in torchgeo (datasets/ucmerced.py); SHA-256 in tensorflow_datasets (url_checksums/uc_merced.txt)",
)  # fmt: skip

DATASETS: Mapping[str, DataSet] = {
    "eurosat_rgb": DataSet(
        _archive(_EUROSAT_RGB, "EuroSAT_RGB", 27_000, 11, 3402, 5151), _EUROSAT_SPLITS, 27_000, "MIT",
        "https://zenodo.org/records/7711810",
    ),
    "eurosat_ms": DataSet(
        _archive(_EUROSAT_MS, "EuroSAT_MS", 27_000, 11, 107_244, 110_592), _EUROSAT_SPLITS, 27_000, "MIT",
        "https://zenodo.org/records/7711810",
    ),
    "bigearthnet_v1": DataSet(
        _archive(_BIGEARTHNET_V1, "BigEarthNet-v1.0", 7_674_238, 590_327, 12_729, 14_809), _V1_LISTS, 590_326,
        "CDLA-Permissive-1.0", "https://zenodo.org/records/12687186",
    ),
    "bigearthnet_v2": DataSet(
        _archive(_BIGEARTHNET_V2, "BigEarthNet-S2", 6_593_856, 549_604, 13_714, 15_702), _V2_TABLES, 549_488,
        "CDLA-Permissive-1.0", "https://zenodo.org/records/10891137",
    ),
    "ucmerced": DataSet(
        _archive(_UCMERCED, "UCMerced_LandUse", 2_101, 23, 209_068, 211_098), (), 2_100, "public domain",
        "http://weegee.vision.ucmerced.edu/datasets/landuse.html",
        "The official server speaks HTTP alone and is often away; the file from a mirror must have the same sums.",
    ),
}  # fmt: skip
