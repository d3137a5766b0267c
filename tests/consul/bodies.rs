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

        // The same registration through the native API is a heartbeat, also if it does not name these entries.
        let checks = json!([{"id": "service:bi", "ttl_ms": 60_000, "initial_status": "passing"}]);
        let equal = |metadata: Value| json!({"address": "http://10.9.9.1:1", "permanent": true, "checks": checks, "metadata": metadata});
        let written = server.written();
        for metadata in [json!({}), kept.clone()] {
            let renewed = server.put_native(path, equal(metadata)).await;
            assert_eq!(renewed.status, 200, "{}", renewed.body);
        }
        assert_eq!(server.written(), written, "an equal registration is not written");
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
