"""Says what the contracts were tested against, where that depends on the machine."""

from __future__ import annotations

import os

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    real = os.environ.get("STOS_E2E_KUBECONFIG")
    against = f"the real API server of {real}" if real else "a stand-in for the API server (no STOS_E2E_KUBECONFIG)"
    terminalreporter.write_line(f"the vault of Kubernetes was tested against {against}")
