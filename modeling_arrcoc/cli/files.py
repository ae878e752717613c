"""Write files and folders whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture so that `path` always holds all of it or what was there before; its suffix names the format."""
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.absolute().parent)
    os.close(handle)
    temporary = Path(name)
    try:
        picture.save(temporary)
        temporary.chmod(_permissions(0o666))
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def replaced_folder(out: Path) -> Iterator[Path]:
    """A new folder to write into that takes the place of `out` on leaving, and vanishes on an error."""
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    new, old = scratch / "new", scratch / "old"
    try:
        new.mkdir()
        yield new
        new.chmod(_permissions(0o777))
        if out.exists():
            out.rename(old)
        try:
            new.rename(out)
        except BaseException:
            if old.exists():
                old.rename(out)
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _permissions(mode: int) -> int:
    """What a new file or folder gets under the user's umask; temporary ones are private."""
    mask = os.umask(0)
    os.umask(mask)
    return mode & ~mask
