"""Elements of an XML file, one at a time, without entities from elsewhere; and languages as such files name them."""

from collections.abc import Iterator
from typing import Any

from mnmt_ds.data.language_codes import fits
from mnmt_ds.data.readers.lines import opened
from mnmt_ds.errors import UserError


def elements(path: str, *tags: str) -> Iterator[Any]:
    """Yields elements as they end; each is emptied once the next is asked for.

    Args:
        path: the XML file.
        *tags: names of the elements, in any namespace.

    Yields:
        lxml elements.

    Raises:
        UserError: when the file cannot be read or is not whole XML.
    """
    from lxml import etree

    try:
        with opened(path) as stream:
            for _, element in etree.iterparse(
                stream, tag=tuple(f"{{*}}{tag}" for tag in tags), resolve_entities=False, no_network=True,
                load_dtd=False, huge_tree=True,
            ):  # fmt: skip
                yield element
                element.clear()
                while element.getprevious() is not None:
                    del element.getparent()[0]
    except etree.XMLSyntaxError as error:
        line = error.position[0] if error.position else 1
        raise UserError(f"{path}:{line}: not whole XML ({error.msg}); mend or leave out this file") from None


def local_name(element: Any) -> str:
    """Looks up an element's name without its namespace.

    Args:
        element: of lxml.

    Returns:
        The name; '' for comments and processing instructions.
    """
    tag = element.tag
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""


def is_turned(place: str, languages: tuple[str, str], names: tuple[str, str]) -> bool:
    """Returns whether a bilingual file goes from a pair's target into its source.

    Args:
        place: the file, with the line where it is known, for messages.
        languages: the file's source and target language; a target of '' may be any.
        names: the pair's languages, as the file calls them.

    Returns:
        Whether the two are the other way round.

    Raises:
        UserError: when the file is in other languages.
    """
    source, target = languages
    for (first, second), turned in (((names[0], names[1]), False), ((names[1], names[0]), True)):
        if fits(source, first) and (not target or fits(target, second)):
            return turned
    raise UserError(
        f"{place}: from '{source}' into '{target}', not {names[0]} and {names[1]}; give 'codes' if the languages are"
        " called otherwise"
    )
