"""Which values of a graph share memory: once for all backends, from who reads what, and when."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Generic, NamedTuple, TypeVar

from .fusion import AddedProduct, Fused, Single
from .operations import Value, View

Kind = TypeVar("Kind", bound=Hashable)
Place = TypeVar("Place")


class PlacePool(Generic[Kind, Place]):
    """Places for values, by what fits there; graphs that run one after another share them. more: makes one."""

    def __init__(self, more: Callable[[Kind], Place]) -> None:
        self.places: dict[Kind, list[Place]] = {}
        self._more = more

    def more(self, kind: Kind) -> Place:
        self.places.setdefault(kind, []).append(place := self._more(kind))
        return place


class Home(NamedTuple):
    """Where a value is: the number of its place among those that this graph uses, and its first number there."""

    place: int
    column: int


def plan(
    fused: Sequence[Fused],
    pool: PlacePool[Kind, Place],
    kind_of: Callable[[Fused], Kind],
    in_place: Callable[[Fused], Value | None],
    also_read: Callable[[Fused], Sequence[Value]] = lambda item: (),
) -> dict[int, tuple[Place, int]]:
    """For each value, by its number, its place, and which number there is its first.

    Values that are not needed at the same time share a place of their kind. in_place: the value that an item may
    overwrite, if nobody needs it after. also_read: what an item reads besides its own values.
    """
    needs = [[*item.reads, *also_read(item)] for item in fused]
    last_use = {value.number: i for i, values in enumerate(needs) for value in values}
    homes: dict[int, Home] = {}
    places: list[tuple[Kind, Place]] = []
    tenants: list[int] = []  # of each place: values in it that are still needed
    free = {kind: list(found) for kind, found in pool.places.items()}
    for i, item in enumerate(fused):
        made, shared = item.makes, _shared(item)
        if shared is None and (target := in_place(item)) is not None and last_use[target.number] == i:
            shared = target if tenants[homes[target.number].place] == 1 else None
        if shared is not None:
            homes[made[0].number] = home = homes[shared.number]
            tenants[home.place] += 1
        else:
            kind = kind_of(item)
            spare = free.get(kind)
            places.append((kind, spare.pop() if spare else pool.more(kind)))
            tenants.append(len(made))
            column = 0
            for value in made:
                homes[value.number] = Home(len(places) - 1, column)
                column += value.size
        for value in dict.fromkeys([*needs[i], *made]):
            if last_use.get(value.number, len(fused)) == i:
                number = homes[value.number].place
                tenants[number] -= 1
                if not tenants[number]:
                    kind, place = places[number]
                    free.setdefault(kind, []).append(place)
    return {number: (places[home.place][1], home.column) for number, home in homes.items()}


def _shared(item: Fused) -> Value | None:
    """The value whose memory is an item's result too, whatever comes after."""
    if isinstance(item, AddedProduct):
        return item.onto
    return item.op.x if isinstance(item, Single) and isinstance(item.op, View) else None
