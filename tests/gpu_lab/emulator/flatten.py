"""Puts the body of every device function in the place of its call, so that only one kind of control flow is left.

A call's parameters are small arrays of every thread's own; the callee's names for them become the caller's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .program import Address, Function, Group, Immediate, Instruction, Module, Operand, Register, Symbol

_DEEPEST = 32


@dataclass(frozen=True)
class Call:
    """Where a body goes: a ``prefix`` for its names, ``renamed`` for its parameters, the label to ``return_to``."""

    prefix: str
    renamed: dict[str, str]
    return_to: str | None
    depth: int


def flatten(module: Module) -> Function:
    """The kernel of ``module`` without calls.

    Raises:
        NotImplementedError: A function is called that the text only declares (``vprintf``), or indirectly.
        ValueError: Calls are deeper than 32, as in a recursion.
    """
    kernel = Function(module.entry.name, module.entry.parameters, [], module.entry.threads)
    _insert(kernel, module, module.entry, Call("", {}, None, 0))
    return kernel


def _insert(kernel: Function, module: Module, body: Function, call: Call) -> None:
    """Appends the instructions of ``body`` to those of ``kernel``."""
    kernel.registers |= {call.prefix + name: type_ for name, type_ in body.registers.items()}
    kernel.local += [replace(v, name=call.prefix + v.name) for v in body.local]
    kernel.shared += [replace(v, name=call.prefix + v.name) for v in body.shared]
    own = {v.name for v in (*body.local, *body.shared)} | set(body.labels)
    at: dict[int, list[str]] = {}
    for label, position in body.labels.items():
        at.setdefault(position, []).append(label)

    def rename(operand: Operand) -> Operand:
        match operand:
            case Register(name) if name != "_":
                return Register(call.prefix + name)
            case Symbol(name):
                return Symbol(call.renamed.get(name, call.prefix + name if name in own else name))
            case Address(base, offset):
                renamed = rename(base)
                assert isinstance(renamed, Register | Symbol | Immediate)
                return Address(renamed, offset)
            case Group(members):
                return Group(tuple(rename(m) for m in members))
        return operand

    for position, instruction in enumerate([*body.code, None]):
        for label in at.get(position, []):
            kernel.labels[call.prefix + label] = len(kernel.code)
        if instruction is None:
            break
        guard = instruction.guard
        if guard is not None:
            guard = (Register(call.prefix + guard[0].name), guard[1])
        operands = tuple(rename(o) for o in instruction.operands)
        instruction = replace(instruction, operands=operands, guard=guard)
        if instruction.opcode == "call":
            _insert_call(kernel, module, instruction, call.depth + 1)
        elif instruction.opcode == "ret" and call.return_to is not None:
            kernel.code.append(replace(instruction, opcode="bra", modifiers=(), operands=(Symbol(call.return_to),)))
        else:
            kernel.code.append(_of_parameters(kernel, instruction))


def _insert_call(kernel: Function, module: Module, instruction: Instruction, depth: int) -> None:
    """``call (results), function, (arguments);``, both groups being optional."""
    groups = [o for o in instruction.operands if isinstance(o, Group)]
    names = [o.name for o in instruction.operands if isinstance(o, Symbol)]
    if len(names) != 1 or names[0] not in module.functions or instruction.guard is not None:
        raise NotImplementedError(f"a call that the emulator does not know, {instruction}")
    if depth > _DEEPEST:
        raise ValueError(f"calls nest deeper than {_DEEPEST}, {instruction}")
    called = module.functions[names[0]]
    formal = [v.name for v in (*called.results, *called.parameters)]
    actual = [m.name for group in groups for m in group.members if isinstance(m, Symbol)]
    prefix = f"{called.name}@{len(kernel.code)}:"
    return_to = f"{prefix}return"
    _insert(kernel, module, called, Call(prefix, dict(zip(formal, actual, strict=True)), return_to, depth))
    kernel.labels[return_to] = len(kernel.code)


def _of_parameters(kernel: Function, instruction: Instruction) -> Instruction:
    """Accesses to the parameters of calls are accesses to local memory; those of the kernel stay as they are."""
    if instruction.opcode not in ("ld", "st") or "param" not in instruction.modifiers:
        return instruction
    local = {v.name for v in kernel.local}
    uses = [o.base for o in instruction.operands if isinstance(o, Address)]
    if not any(isinstance(base, Symbol) and base.name in local for base in uses):
        return instruction
    modifiers = tuple("local" if m == "param" else m for m in instruction.modifiers)
    return replace(instruction, modifiers=modifiers)
