"""Every way in, tried with what nobody should send: refused with a clear error, or taken in without harm."""
