//! What the bodies of requests say, and what other APIs may say of a service of Consul.

use serde_json::{Value, json};

use super::{Answer, Server, run};

impl Server {
    /// A registration through the native API, without a token.
    async fn put_native(&self, path: &str, body: Value) -> Answer {
        let url = format!("http://{}/api/v1/services/{path}", self.node.http_addr());
        self.ask(self.client.put(url).json(&body)).await
    }
}

/// The entries of the face decide which instance has an id and a check of Consul.
#[test]
fn no_other_api_forges_or_drops_what_the_face_keeps_about_a_service() {
    run(async {
        let server = Server::start(|_| {}).await;
        let check =
            json!({"TTL": "60s", "Status": "passing", "DeregisterCriticalServiceAfter": "90m"});
        let body =
            json!({"ID": "bi", "Name": "bi", "Address": "10.9.9.1", "Port": 1, "Check": check});
        server.register(body).await;
        let path = "default/bi/instances/bi";
        let url = format!("http://{}/api/v1/services/{path}", server.node.http_addr());
        let shown = server.ask(server.client.get(&url).bearer_auth(&server.token)).await;
        let kept = shown.body["metadata"].clone();
        assert!(kept["consul-service"].is_string() && kept["consul-check-0"].is_string(), "{kept}");

        // Another instance cannot take over the id or the check.
        let forged =
            json!({"address": "http://10.9.9.2:1", "ttl_ms": 60_000, "metadata": kept.clone()});
        let refused = server.put_native("default/forge/instances/bi", forged.clone()).await;
        assert_eq!((refused.status, &refused.body["field"]), (422, &json!("metadata")));
        let mut item = forged;
        (item["service"], item["id"]) = (json!("forge"), json!("bi"));
        let batch = format!("http://{}/api/v1/registrations", server.node.http_addr());
        let batch = server.client.post(batch).json(&json!({"items": [item]}));
        let refused = server.ask(batch.bearer_auth(&server.token)).await;
        assert_eq!(refused.body["results"][0]["problem"]["field"], "metadata", "{}", refused.body);
        assert_eq!(server.get("catalog/service/forge").await.len(), 0);
        for (key, value) in [("consul-service", "{}"), ("consul-node", "{}"), ("consul-x", "1")] {
            let mut metadata = kept.clone();
            metadata[key] = json!(value);
            let changed =
                json!({"address": "http://10.9.9.1:1", "permanent": true, "metadata": metadata});
            let refused = server.put_native(path, changed).await;
            assert_eq!(refused.status, 422, "{key}: {}", refused.body);
        }
        assert_eq!(server.get("agent/service/bi").await.body["Address"], "10.9.9.1");
        let passed = server.put("agent/check/pass/service:bi", Value::Null).await;
        assert_eq!(passed.status, 200, "{}", passed.body);

        // The same registration through the native API changes nothing, also if it does not name these entries.
        let checks = json!([{"id": "service:bi", "ttl_ms": 60_000, "initial_status": "passing"}]);
        let equal = |metadata: Value| json!({"address": "http://10.9.9.1:1", "permanent": true, "checks": checks, "metadata": metadata});
        for metadata in [json!({}), kept.clone()] {
            let renewed = server.put_native(path, equal(metadata)).await;
            assert_eq!(
                (renewed.status, &renewed.body["lease_epoch"]),
                (200, &shown.body["lease_epoch"])
            );
        }
        // A changed one keeps the service one of Consul.
        let changed = server.put_native(path, equal(json!({"k": "v"}))).await;
        assert_eq!(changed.status, 200, "{}", changed.body);
        let service = server.get("agent/service/bi").await;
        assert_eq!((service.status, &service.body["Meta"]), (200, &json!({"k": "v"})));
        let checks = server.get_known("health/checks/bi").await;
        let after = &checks.body[0]["Definition"]["DeregisterCriticalServiceAfter"];
        assert_eq!(after, "1h30m0s", "{}", checks.body);
        // So does a registration of the compatible API, and what is kept about its former check is not shown.
        let url = format!("http://{}/api/maxine/serviceops/register", server.node.http_addr());
        let body = json!({"hostName": "10.9.9.1", "nodeName": "bi", "serviceName": "bi", "port": 1, "timeOut": 60});
        let registered = server.ask(server.client.post(url).json(&body)).await;
        assert_eq!(registered.status, 200, "{}", registered.body);
        assert_eq!(server.get("agent/service/bi").await.status, 200);
        assert_eq!(server.get("health/checks/bi").await.len(), 0);
        let unknown = server.put("agent/check/pass/service:bi", Value::Null).await;
        assert_eq!(unknown.status, 404, "{}", unknown.body);
        let left = server.put("agent/service/deregister/bi", Value::Null).await;
        assert_eq!((left.status, server.get("catalog/service/bi").await.len()), (200, 0));
        server.node.stop().await;
    });
}

/// Go's client names the namespace of a registration in the body only.
#[test]
fn the_namespace_of_a_body_counts_as_that_of_the_query_and_of_the_header() {
    run(async {
        let server = Server::start(|_| {}).await;
        let body = |address: &str, namespace: &str| json!({"Name": "web", "Address": address, "Port": 1, "Namespace": namespace});
        let addresses = async |path: &str| {
            let found = server.get(path).await;
            let all = found.body.as_array().unwrap_or_else(|| panic!("{path}: {}", found.body));
            all.iter().map(|node| node["ServiceAddress"].clone()).collect::<Vec<_>>()
        };
        server.register(body("10.7.0.1", "shop")).await;
        server.register(body("10.7.0.2", "")).await;
        assert_eq!(addresses("catalog/service/web").await, ["10.7.0.2"]);
        assert_eq!(addresses("catalog/service/web?ns=shop").await, ["10.7.0.1"]);
        // A header counts too, also for an answer that was just built for another namespace.
        let url = format!("{}catalog/service/web", server.url);
        for (namespace, address) in [("shop", "10.7.0.1"), ("default", "10.7.0.2")] {
            let request = server.client.get(&url).header("X-Consul-Namespace", namespace);
            let found = server.ask(request).await;
            assert_eq!(found.body[0]["ServiceAddress"], address, "{namespace}: {}", found.body);
        }
        let check = json!({"Name": "own", "ServiceID": "web", "TTL": "1m", "Namespace": "shop"});
        assert_eq!(server.put("agent/check/register", check).await.status, 200);
        assert_eq!(server.get("health/checks/web").await.len(), 0);
        assert_eq!(server.get("health/checks/web?ns=shop").await.len(), 1);

        // The catalog: an instance of another namespace stays.
        let of_catalog = |service: &str, namespace: &str| {
            let service = json!({"Service": service, "Port": 1, "Namespace": namespace});
            json!({"Node": "box", "Address": "10.7.0.3", "Service": service})
        };
        for namespace in ["shop", "default"] {
            let made = server.put("catalog/register", of_catalog("db", namespace)).await;
            assert_eq!(made.body, json!(true));
        }
        for (node, id, path) in [("box", "db", "db"), ("maxine", "web", "web")] {
            let gone = json!({"Node": node, "ServiceID": id, "Namespace": "shop"});
            assert_eq!(server.put("catalog/deregister", gone).await.body, json!(true));
            assert_eq!(
                server.get(&format!("catalog/service/{path}?ns=shop")).await.len(),
                0,
                "{path}"
            );
            assert_eq!(server.get(&format!("catalog/service/{path}")).await.len(), 1, "{path}");
        }

        // What contradicts itself, and what no namespace has, is refused.
        let in_partition = json!({"Name": "web", "Port": 1, "Partition": "x"});
        let mut other_check = body("10.7.0.9", "shop");
        other_check["Check"] = json!({"TTL": "1m", "Namespace": "team"});
        let mut catalog_partition = of_catalog("db", "");
        catalog_partition["Partition"] = json!("x");
        let txn = |field: &str| json!([{"KV": {"Verb": "set", "Key": "a", field: "shop"}}]);
        for (path, body) in [
            ("agent/service/register?ns=team", body("10.7.0.9", "shop")),
            ("agent/service/register?ns=shop&ns=team", body("10.7.0.9", "")),
            ("agent/service/register?ns=shop", body("10.7.0.9", "default")),
            ("agent/service/register", in_partition),
            ("agent/service/register", other_check),
            ("catalog/register?ns=team", of_catalog("db", "shop")),
            ("catalog/register", catalog_partition),
            ("catalog/deregister?ns=team", json!({"Node": "box", "Namespace": "shop"})),
            ("catalog/deregister", json!({"Node": "box", "Partition": "x"})),
            (
                "agent/check/register?ns=team",
                json!({"Name": "c", "ServiceID": "web", "TTL": "1m", "Namespace": "shop"}),
            ),
            ("session/create", json!({"Namespace": "shop"})),
            ("session/create", json!({"Partition": "x"})),
            (
                "session/create",
                json!({"ServiceChecks": [{"ID": "service:web", "Namespace": "shop"}]}),
            ),
            ("txn", txn("Namespace")),
            ("txn", txn("Partition")),
        ] {
            let refused = server.put_known(path, body.clone()).await;
            assert_eq!(refused.status, 400, "{path} {body}: {}", refused.body);
        }
        let request = server.client.get(format!("{url}?ns=shop"));
        let refused = server.ask(request.header("X-Consul-Namespace", "team")).await;
        assert_eq!(refused.status, 400, "{}", refused.body);
        let refused = server.ask(server.client.get(&url).header("X-Consul-Partition", "x")).await;
        assert_eq!(refused.status, 400, "{}", refused.body);
        for path in ["agent/self", "agent/members", "status/leader", "catalog/datacenters"] {
            let refused = server.get_known(&format!("{path}?partition=x")).await;
            assert_eq!(refused.status, 400, "{path}: {}", refused.body);
        }
        assert_eq!(addresses("catalog/service/web").await, ["10.7.0.2"]);
        server.node.stop().await;
    });
}

#[test]
fn a_write_for_another_datacenter_is_refused() {
    run(async {
        let server = Server::start(|_| {}).await;
        server.register(json!({"Name": "web", "Port": 1, "Check": {"TTL": "1m"}})).await;
        let session = server.put_known("session/create", json!({"TTL": "1m"})).await;
        let session = session.body["ID"].as_str().unwrap().to_owned();
        for (path, body) in [
            ("agent/service/register", json!({"Name": "other", "Port": 1})),
            ("agent/service/deregister/web", json!({})),
            ("agent/service/maintenance/web", json!({})),
            ("agent/check/register", json!({"Name": "c", "ServiceID": "web", "TTL": "1m"})),
            ("agent/check/deregister/service:web", json!({})),
            ("agent/check/pass/service:web", json!({})),
            ("session/create", json!({})),
            (&*format!("session/destroy/{session}"), json!({})),
            (&*format!("session/renew/{session}"), json!({})),
            ("kv/a", json!({})),
        ] {
            let refused = server.put_known(&format!("{path}?dc=dc1&dc=mars"), body).await;
            assert_eq!((refused.status, refused.text()), (500, "No path to datacenter"), "{path}");
        }
        let elsewhere = json!({"Name": "other", "Port": 1, "Datacenter": "mars"});
        let refused = server.put("agent/service/register", elsewhere).await;
        assert_eq!((refused.status, refused.text()), (500, "No path to datacenter"));
        assert_eq!(server.get("catalog/service/web").await.len(), 1);
        assert_eq!(server.get("catalog/service/other").await.len(), 0);
        server.node.stop().await;
    });
}

/// A registration that names no check must not make an instance that fails count as healthy.
#[test]
fn a_registration_without_checks_keeps_those_of_the_service_and_their_states() {
    run(async {
        let server = Server::start(|_| {}).await;
        let check = json!({"TTL": "1h", "Status": "passing"});
        let first =
            json!({"ID": "w", "Name": "one", "Address": "10.0.0.1", "Port": 1, "Check": check});
        server.register(first).await;
        server.put("agent/check/fail/service:w", Value::Null).await;
        for (name, address) in [("one", "10.0.0.1"), ("one", "10.0.0.2"), ("two", "10.0.0.2")] {
            server.register(json!({"ID": "w", "Name": name, "Address": address, "Port": 1})).await;
            let found = server.get(&format!("health/service/{name}")).await;
            assert_eq!(found.body[0]["Service"]["Address"], address);
            let shown = &found.body[0]["Checks"][1];
            assert_eq!(
                (&shown["CheckID"], &shown["Status"]),
                (&json!("service:w"), &json!("critical"))
            );
        }
        // The state stays as well if the registration replaces all checks, and names this one.
        let again =
            json!({"ID": "w", "Name": "two", "Address": "10.0.0.3", "Port": 1, "Check": check});
        let path = "agent/service/register?replace-existing-checks";
        assert_eq!(server.put(path, again).await.status, 200);
        assert_eq!(server.get("health/service/two?passing").await.len(), 0);
        // Only an explicit request removes them.
        let bare = json!({"ID": "w", "Name": "two", "Address": "10.0.0.2", "Port": 1});
        let replaced = server.put(path, bare).await;
        assert_eq!(replaced.status, 200, "{}", replaced.body);
        assert_eq!(server.get("health/service/two?passing").await.len(), 1);
        server.node.stop().await;
    });
}

#[test]
fn what_a_body_cannot_have_is_refused_and_says_why() {
    run(async {
        let server = Server::start(|_| {}).await;
        let service = |field: &str, value: Value| json!({"Name": "web", "Port": 1, field: value});
        for (path, body, part) in [
            ("agent/service/register", service("Weights", json!({"Passing": 0})), "from 1 to 100"),
            (
                "agent/service/register",
                service("Weights", json!({"Passing": 0, "Warning": 0})),
                "from 1 to 100",
            ),
            (
                "agent/service/register",
                service("Check", json!({"TTL": "10s", "Interval": "5s"})),
                "TTL cannot",
            ),
            (
                "agent/service/register",
                service("Locality", json!({"Region": "r"})),
                "unknown field",
            ),
            (
                "catalog/register",
                json!({"Node": "n", "Address": "10.0.0.1", "Service": {"Service": "s", "Token": "t"}}),
                "unknown field",
            ),
            (
                "agent/service/register",
                service("Connect", json!({"SidecarService": {}})),
                "no service mesh",
            ),
            (
                "agent/service/register",
                service("Connect", json!({"Native": true})),
                "no service mesh",
            ),
            ("session/create", json!({"Node": "nope"}), "Missing node registration"),
            ("session/create", json!({"TTL": 10}), "TTL must be a text"),
            (
                "catalog/register",
                json!({"Node": "n", "Address": "10.0.0.1", "Locality": {"Region": "r"}, "Service": {"Service": "s"}}),
                "unknown field",
            ),
        ] {
            let refused = server.put_known(path, body.clone()).await;
            assert_eq!(refused.status, 400, "{path} {body}: {}", refused.body);
            assert!(refused.text().contains(part), "{path} {body}: {}", refused.body);
        }
        // Go sends these for what is not set.
        let unset = json!({"Service": "s", "Weights": {"Passing": 0, "Warning": 0}, "Connect": null, "Proxy": null});
        let unset = json!({"Node": "Box", "Address": "10.0.0.1", "Service": unset});
        assert_eq!(server.put("catalog/register", unset).await.body, json!(true));
        server.register(service("Connect", json!({"Native": false}))).await;
        // A node is known if it has an instance, whichever API registered that.
        let native = json!({"address": "http://10.0.0.2:1", "ttl_ms": 60_000, "node": "vm-1"});
        assert_eq!(server.put_native("default/db/instances/a", native).await.status, 200);
        for node in ["", "MAXINE", "box", "VM-1"] {
            let made = server.put_known("session/create", json!({"Node": node})).await;
            assert_eq!(made.status, 200, "{node}: {}", made.body);
        }
        server.node.stop().await;
    });
}

/// The files of Consul's agent can have it. Consul takes the token of a request from its header or query only.
#[test]
fn a_token_in_the_definition_of_a_service_gives_no_rights_and_is_not_refused() {
    run(async {
        let server = Server::start(|_| {}).await;
        let with_token = |token: &str| json!({"Name": "web", "Port": 1, "token": token});
        server.register(with_token("not-a-token-of-maxine")).await;
        let shown = server.get("agent/service/web").await;
        assert!(shown.body.get("Token").is_none(), "{}", shown.body);
        // A check that needs a token: that of the definition does not count, and that of the header does.
        let mut body = with_token(&server.token);
        body["Check"] = json!({"TCP": "localhost:1", "Interval": "5s"});
        let path = "agent/service/register";
        let refused = server.put(path, body.clone()).await;
        assert_eq!(refused.status, 403, "{}", refused.body);
        let registered = server.put_known(path, body).await;
        assert_eq!(registered.status, 200, "{}", registered.body);
        server.node.stop().await;
    });
}
