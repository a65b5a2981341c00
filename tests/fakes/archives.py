"""Archives of every kind, honest and hostile."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa

KINDS = (".zip", ".tar.gz", ".tar.zst")


def compressed(path: Path, data: bytes) -> Path:
    """Write `data` with the compression that the name asks for."""
    if path.name.endswith(".gz"):
        path.write_bytes(gzip.compress(data, 1))
    else:
        with pa.OSFile(str(path), "wb") as raw, pa.CompressedOutputStream(raw, "zstd") as out:
            out.write(data)
    return path


def tar_of(members: list[tuple[tarfile.TarInfo | str, bytes]]) -> bytes:
    """A tar of members given as headers or as names of plain files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for member, content in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            if info.isreg():
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def write(path: Path, files: dict[str, bytes]) -> Path:
    """An archive of plain files; a name that ends in a slash is a folder."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    members: list[tuple[tarfile.TarInfo | str, bytes]] = []
    for name, content in files.items():
        info = tarfile.TarInfo(name)
        info.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
        members.append((info, content))
    return compressed(path, tar_of(members))


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    """The header of a link or a device."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info
