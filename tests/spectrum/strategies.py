"""What the property tests of spectra are given."""

from hypothesis import strategies as st

from passband.spectrum.band import Band

# One to three axes, even and odd, with the smallest there are.
grids = st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple)
seeds = st.integers(0, 2**31 - 1)


@st.composite
def bands(draw: st.DrawFn) -> Band:
    sizes = draw(grids)
    return Band(sizes, tuple(draw(st.integers(1, size // 2 + 1)) for size in sizes))
