"""Products of spectra, filters and gradients that lie against pages that may not be touched.

Run by test_product_kernels.py on its own, with the names of instruction sets, because a touch ends
the process.
"""

import sys
from unittest import mock

from passband.ops.kernel_files import open_kernels
from passband.ops.spectral.native import product as kernels
from tests.ops.band_limited_conv.native.guard_pages import empty, guarded
from tests.ops.spectral.product_cases import CASES, FOLDER, check


def main() -> None:
    for name in sys.argv[1:]:
        library = open_kernels(FOLDER / f"kernels_{name}.so", kernels.FUNCTIONS)
        with (
            mock.patch.object(kernels, "load_library", lambda library=library: library),
            mock.patch.object(kernels, "empty", empty),
        ):
            for guarded.at_end in (True, False):
                for case in CASES:
                    check(case, guarded.copy)
                    guarded.clear()
    print("guarded", *sys.argv[1:])


if __name__ == "__main__":
    main()
