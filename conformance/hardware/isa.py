"""Which instructions matter here, and which precisions a CPU has instructions for."""

from __future__ import annotations

import re

from conformance.hardware.host import Host

# Flags that decide which kernels oneDNN and TensorFlow choose, by the kernel's names.
ISA = re.compile(r"sse4_[12]|avx.*|fma|f16c|amx_.*|bmi[12]|vaes|gfni")

# Any one of these flags makes a type native; fp32 needs none.
NATIVE_FLAGS: dict[str, tuple[str, ...]] = {
    "fp32": (),
    "bf16": ("avx512_bf16", "amx_bf16"),
    "int8": ("avx512_vnni", "avx_vnni", "amx_int8"),
}


def native_precisions(host: Host) -> tuple[str, ...]:
    """Return the precisions that this CPU computes in natively, in the order of the table."""
    return tuple(name for name, flags in NATIVE_FLAGS.items() if not flags or set(flags) & set(host.flags))
