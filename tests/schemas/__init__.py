"""Tests of the contracts and of the fold; `samples` and `rubbish` serve other tests too."""
