"""Playbooks: YAML files that say how a kind of task is done."""

from motet_agents.playbooks.loading import load_playbooks
from motet_agents.playbooks.playbook import Playbook

__all__ = ["Playbook", "load_playbooks"]
