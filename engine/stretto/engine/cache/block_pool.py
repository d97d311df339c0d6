"""Which cache blocks are free, which are shared, and which hold a prefix worth keeping. No torch."""

from array import array
from collections import OrderedDict
from collections.abc import Sequence as Items
from hashlib import blake2b


def scope_key(scope: bytes, adapter: bytes = b"") -> bytes:
    """The digest that a prefix's chain starts from: nothing is shared across tenants, salts or adapters."""
    return blake2b(len(scope).to_bytes(4, "little") + scope + adapter, digest_size=16).digest()


def block_key(before: bytes, tokens: Items[int]) -> bytes:
    """The digest of a full block: of all tokens before it (through the digest before it) and of its own."""
    return blake2b(before + array("I", tokens).tobytes(), digest_size=16).digest()


class BlockPool:
    """Hands out block numbers; knows nothing of tensors.

    A block is free (nobody's), held (by at least one sequence) or published (nobody's now, but findable by its key
    until the pool needs the room, least recently used first). Free + held + published is all of them.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.block_size = block_size
        self._users = [0] * num_blocks
        self._free = list(range(num_blocks - 1, -1, -1))
        self._idle: OrderedDict[int, None] = OrderedDict()  # published and held by nobody, oldest first
        self._key_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}

    @property
    def capacity(self) -> int:
        """How many tokens fit when one sequence has the whole pool."""
        return len(self._users) * self.block_size

    @property
    def available(self) -> int:
        """How many blocks `take` can hand out."""
        return len(self._free) + len(self._idle)

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def published(self) -> int:
        return len(self._idle)

    @property
    def held(self) -> int:
        return len(self._users) - self.available

    def in_use(self, block: int) -> bool:
        return self._users[block] > 0

    def take(self) -> int:
        """A block whose contents are nobody's: a free one, else the longest unused published one."""
        if self._free:
            block = self._free.pop()
        else:
            block, _ = self._idle.popitem(last=False)
            self._unpublish(block)
        self._users[block] = 1
        return block

    def share(self, key: bytes) -> int | None:
        """The block published under this key, with one more user; None where there is none."""
        block = self._block_of.get(key)
        if block is not None:
            self._users[block] += 1
            self._idle.pop(block, None)
        return block

    def release(self, blocks: Items[int]) -> None:
        """Let go of blocks, last first, so that a prefix outlives what follows it."""
        for block in reversed(blocks):
            assert self._users[block] > 0, f"block {block} is released twice"
            self._users[block] -= 1
            if self._users[block] == 0:
                if block in self._key_of:
                    self._idle[block] = None
                else:
                    self._free.append(block)

    def publish(self, key: bytes, block: int) -> None:
        """Make a full, computed block findable, unless an equal one already is."""
        if key not in self._block_of and block not in self._key_of:
            self._block_of[key], self._key_of[block] = block, key

    def withdraw(self, blocks: Items[int]) -> None:
        """Make blocks findable no longer (their contents proved bad). Their users keep them."""
        for block in blocks:
            if block in self._key_of:
                self._unpublish(block)
                if block in self._idle:
                    del self._idle[block]
                    self._free.append(block)

    def _unpublish(self, block: int) -> None:
        del self._block_of[self._key_of.pop(block)]
