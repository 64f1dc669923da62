"""How the operator reaches the API server: its service account in a pod, else `KUBECONFIG`.

kopf's own functions read both. A service account's token is replaced while the process runs (hourly, by the kubelet),
so who holds a login asks for it again.
"""

from collections.abc import Callable
from typing import Any

import kopf

from heliograph.operator.kube import KubeError

Login = Callable[[], kopf.ConnectionInfo]
"""Gives the credentials as they are now. Raises KubeError."""


def login() -> kopf.ConnectionInfo:
    """The credentials of this process. Raises KubeError(`kube_unavailable`) where it has none."""
    settings = kopf.OperatorSettings()
    try:
        found: Any = kopf.login_with_service_account(settings=settings) or kopf.login_with_kubeconfig(settings=settings)
    except (OSError, KeyError, ValueError, kopf.LoginError) as error:
        raise KubeError("kube_unavailable", f"credentials can't be read: {error}") from None
    if not isinstance(found, kopf.ConnectionInfo):
        raise KubeError("kube_unavailable", "no service account and no KUBECONFIG: there is no API server to talk to")
    return found
