"""Tests of Motet; a package, so that its helpers can be imported by name."""
