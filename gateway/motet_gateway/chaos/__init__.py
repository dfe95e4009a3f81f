"""`motet chaos`: the whole system under load while it is killed, frozen and cut off; the oracle judges what is left."""
