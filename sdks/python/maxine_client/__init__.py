"""A client of Maxine on the native API: stay registered, and choose instances without a request to a node.

    with Client(["http://10.0.0.1:8080", "http://10.0.0.2:8080"]) as client:
        client.register("orders", "orders-1", address="http://10.0.0.9:3000")
        payments = client.resolver("payments")
        with payments.choose() as chosen:
            urllib.request.urlopen(chosen.address + "/invoices/7", timeout=5)

The module `maxine`, in the same distribution, has the calls of the compatible API.
"""

from ._client import Call, Chosen, Client, Registration, Resolver
from ._credentials import ClientCredentials
from ._nodes import Attempt, MaxineError
from ._trace import TracedCall, TracedRequest

__all__ = ["Attempt", "Call", "Chosen", "Client", "ClientCredentials", "MaxineError", "Registration", "Resolver", "TracedCall",
           "TracedRequest"]
__version__ = "2.0.0"
