"""Zip archives, read in place: a path may go on inside one, as in ``corpora/fr-en.txt.zip/Books.en-fr.fr``."""

import zipfile
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from mnmt_ds.errors import UserError

ABOUT = ("README", "LICENSE", "LICENCE", "COPYING", "INFO")
"""Beginnings of the names of files that tell of a corpus and hold none of its text."""


def disk_file(path: str) -> str:
    """Finds the file on disk that a path names: the file itself, or the archive that it is in.

    Args:
        path: a file, a directory, or a place inside a zip archive.

    Returns:
        The archive for a place inside one; else the path.
    """
    return split_member(path)[0]


def split_member(path: str) -> tuple[str, str]:
    """Splits a path that goes on inside a zip archive.

    Args:
        path: any path.

    Returns:
        The archive and the member's name; the path itself and '' where it leads to no archive's inside.
    """
    whole = Path(path)
    if not whole.exists():
        for parent in whole.parents:
            if parent.is_file():
                inside = whole.relative_to(parent).as_posix()
                return (str(parent), inside) if is_archive(str(parent)) else (path, "")
    return path, ""


def is_archive(path: str) -> bool:
    """Returns whether a path is that of a zip archive.

    Args:
        path: any path.

    Returns:
        Whether there is such a file, and it is a whole zip archive by its content.
    """
    if not Path(path).is_file():
        return False
    with Path(path).open("rb") as file:
        starts_as_one = file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")
    return starts_as_one and zipfile.is_zipfile(path)


def member_names(path: str) -> list[str]:
    """Lists the files of a zip archive that may hold text.

    Args:
        path: the archive.

    Returns:
        Their names in the archive, sorted; without directories and files such as README.

    Raises:
        UserError: when the archive cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [info.filename for info in archive.infolist() if not info.is_dir()]
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{path}: the zip archive is cut short or damaged ({error}); copy or make it again") from None
    return sorted(name for name in names if not _is_about(name))


def open_member(path: str, member: str) -> BinaryIO:
    """Opens a file of a zip archive for reading.

    Args:
        path: the archive.
        member: the file's name in it; '': its only file.

    Returns:
        The stream of its bytes.

    Raises:
        UserError: when there is no such file, several where one is wanted, or it is encrypted.
    """
    if not member:
        names = member_names(path)
        if len(names) != 1:
            first = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
            remedy = f" ({first}); name one of them, as {path}/{names[0]}" if names else "; give another file"
            raise UserError(f"{path}: this is a zip archive of {len(names)} files{remedy}")
        (member,) = names
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo(member).flag_bits & 1:
                raise UserError(f"{path}/{member}: is encrypted; unpack the archive and name the file")
            return cast(BinaryIO, archive.open(member))  # keeps the file open by itself
    except KeyError:
        first = ", ".join(member_names(path)[:5])
        raise UserError(f"{path}: the zip archive has no file '{member}'; it has {first}") from None
    except zipfile.BadZipFile as error:
        raise UserError(f"{path}: the zip archive is cut short or damaged ({error}); copy or make it again") from None
    except NotImplementedError as error:
        raise UserError(
            f"{path}/{member}: cannot be read here ({error}); unpack the archive and name the file"
        ) from None


def _is_about(name: str) -> bool:
    path = PurePosixPath(name)
    return path.name.upper().startswith(ABOUT) or path.name.startswith(".") or path.parts[0] == "__MACOSX"
