"""Parameters whose place coefficients cannot take."""

from torch import nn

from passband.convert.frequency.trace import LAYERS, NORMS


def obstacles(model: nn.Module) -> dict[str, str]:
    """The layers, by name, whose parameters cannot become coefficients, and why."""
    owners: dict[int, list[tuple[str, str]]] = {}
    for name, module in model.named_modules():
        for part, parameter in module._parameters.items():
            if parameter is not None:
                owners.setdefault(id(parameter), []).append((name, part))
    found: dict[str, str] = {}
    for name, module in model.named_modules():
        if type(module) not in (*LAYERS, *NORMS):
            continue
        for part in ("weight", "bias"):
            parameter = module._parameters.get(part)
            others = {owner for owner, _ in owners.get(id(parameter), ())} - {name}
            if part not in module._parameters:
                found[name] = (
                    f"whose {part} is computed before each call, as by weight norm or pruning; "
                    "make it a parameter before, with torch.nn.utils.remove_weight_norm or the like"
                )
            elif others:
                found[name] = (
                    f"whose {part} is also {min(others)}'s; give each a parameter of its own"
                )
    return found
