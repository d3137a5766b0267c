"""The choices of the nodes, as the test vectors in `sdks/spec` have them."""

import json
import pathlib
import unittest

from maxine_client import _balance
from maxine_client._xxh3 import xxh3

SPEC = pathlib.Path(__file__).resolve().parents[2] / "spec"


def spec(name):
    return json.loads((SPEC / name).read_text(encoding="utf-8"))


class Balance(unittest.TestCase):
    def test_xxh3(self):
        hashes = spec("xxh3.json")["hashes"]
        for case in hashes:
            data = bytes((i * i + 7 * i) & 255 for i in range(case["len"]))
            self.assertEqual(f"{xxh3(data, int(case['seed'], 16)):016x}", case["expect"], case)
        self.assertGreater(len(hashes), 100)

    def test_hashes_of_callers(self):
        hashes = spec("balance.json")["hashes"]
        for case in hashes:
            found = _balance.caller_hash(
                case["hash_key"],
                case["address"],
                case.get("key"),
                case.get("headers"),
                (case.get("instance_query"), case.get("query")),
            )
            self.assertEqual(f"{found:016x}", case["expect"], case["name"])
        self.assertGreater(len(hashes), 10)

    def test_choices(self):
        checked = 0
        for case in spec("balance.json")["choices"]:
            instances, left_out = case["instances"], case.get("left_out") or []
            balancer = _balance.Balancer(
                case["strategy"], instances, case.get("split") or [], case.get("zone")
            )

            def choose(caller=0):
                at = balancer.choose(caller, admits=lambda at: instances[at]["id"] not in left_out)
                return instances[at]["id"]

            if case.get("turns"):
                self.assertEqual([choose() for _ in range(case["turns"])], case["expect"], case["name"])
                checked += case["turns"]
            for key in case.get("keys") or []:
                self.assertEqual(choose(xxh3(key.encode())), case["expect"][key], (case["name"], key))
                checked += 1
        self.assertGreater(checked, 90)

    def test_least_request_prefers_the_idle_one(self):
        instances = [{"id": "a", "weight": 1}, {"id": "b", "weight": 1}]
        balancer = _balance.Balancer("least_request", instances)
        self.assertEqual({balancer.choose(in_flight=[1, 0].__getitem__) for _ in range(50)}, {1})
        self.assertIsNone(balancer.choose(admits=lambda at: False))
        self.assertIsNone(_balance.Balancer("rendezvous", []).choose())


if __name__ == "__main__":
    unittest.main()
