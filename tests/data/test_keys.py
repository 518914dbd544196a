"""The normalised key and the hashes, by hand."""

import pytest

from mnmt_ds.data.dedup_keys import find_placeholders, hash64, normalise_key


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("Save %d files to “/tmp”?", "save files to tmp"),
        ("  SAVE files, to: tmp  ", "save files to tmp"),
        ("Save %1$s files to tmp", "save files to tmp"),
        ("save {count} files to ${tmp} 42", "save files to"),
        ("Save %(count)s of %-10.3f%%", "save of"),
        ("50% of all", "of all"),
        ("Élan vital!", "élan vital"),
        ("मेनू %s", "मेनू"),
        ("%d:%d", "%d:%d"),
        ("42.", "42."),
        ("\ufeffhy\u00adphen\u200bated w\u2060or\u200ed\ufe0f", "hyphenated word"),
        ("ប្រទេស\u200bកម្ពុជា", "ប្រទេសកម្ពុជា"),
        ("He does n&apos;t say &quot; well @-@ known &quot; .", "he does n t say well known"),
        ('He does n\'t say " well-known ".', "he does n t say well known"),
        ("&amp;quot; a &#x2019; caf&eacute; R&D; &nosuch;", "a café r d nosuch"),
        ("سـلام می\u200cخواهم", "سلام می خواهم"),
    ],
)
def test_normalised(text: str, key: str) -> None:
    assert normalise_key(text) == key


def test_hash_is_blake2b_of_the_text() -> None:
    assert hash64("abc") == 0x5995D533D814BBD8  # b2sum -l 64, bytes from the low end
    assert hash64("abc", 1) != hash64("abc", 2)
    assert 0 <= hash64("x") < 2**64


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("%s of %d", ["%d", "%s"]),
        ("%2$d von %1$s", ["%d", "%s"]),
        ("100% sure", []),
        ("{name} and %(x)s", ["%(x)s", "{name}"]),
        ("none", []),
        ("%lu %5.2f", ["%5.2f", "%lu"]),
        ("It costs $50, or US$3.5m; 50 $ there.", []),
        ("50%-a, 20 %-a, 20 %d'ici lundi, %50i, 5%a", []),
        ("$HOME, $(cmd) and ${x}", ["$(cmd)", "$HOME", "${x}"]),
        ("%1$5d of %2$s at 3 %s, %02x%%", ["%%", "%02x", "%5d", "%s", "%s"]),
        ("Page 5: %s", ["%s"]),
    ],
)
def test_placeholders(text: str, expected: list[str]) -> None:
    assert find_placeholders(text) == expected
