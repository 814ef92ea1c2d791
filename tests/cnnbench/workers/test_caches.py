"""Caches are emptied by reading more than they hold."""

import pytest

from cnnbench.workers import caches
from cnnkernels import host


@pytest.fixture
def sizes(monkeypatch, tmp_path):
    """Return a function that makes a processor with caches of these sizes."""

    def sizes(*words):
        for number, word in enumerate(words):
            folder = tmp_path / f"sys/devices/system/cpu/cpu0/cache/index{number}"
            folder.mkdir(parents=True)
            (folder / "level").write_text(f"{number + 1}\n")
            (folder / "type").write_text("Unified\n")
            (folder / "size").write_text(f"{word}\n")
        monkeypatch.setattr(host, "ROOT", tmp_path)

    return sizes


@pytest.mark.parametrize(
    ("words", "largest"),
    [(("32K", "1024K", "32768K"), 2**25), (("512",), 512), (("3M", "2G"), 2**31), ((), 2**25)],
)
def test_the_largest_cache_is_what_the_system_says(sizes, words, largest):
    sizes(*words)
    assert caches.largest() == largest


def test_every_core_reads_twice_the_largest_cache(sizes):
    sizes("16K")
    caches._readers.cache_clear()
    try:
        _, cores, junk = caches._readers()
        assert junk.nbytes == 2 * 2**14
        assert cores >= 1
        caches.empty()
    finally:
        caches._readers.cache_clear()
