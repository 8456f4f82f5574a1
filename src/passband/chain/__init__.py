"""From a frequency-regularized network to a small plain one, and to what runs it fast."""

from passband.chain.compiled import CompiledChain, compile_chain
from passband.chain.control import small_network
from passband.chain.cut import to_chain

__all__ = ["CompiledChain", "compile_chain", "small_network", "to_chain"]
